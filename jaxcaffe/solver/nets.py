"""Which nets a solver file trains and tests, and under which NetState.

Follows InitTrainNet and InitTestNets of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxcaffe.errors import PrototxtError, describe
from jaxcaffe.proto import caffe_pb2

TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


class NetUse(NamedTuple):
    """One net that a solver names, for training or for one of its tests."""

    kind: str  # the solver's field: "net", "test_net_param", ...
    net: str | caffe_pb2.NetParameter  # path as written, or the net itself
    phase: caffe_pb2.Phase  # TRAIN or TEST
    state: caffe_pb2.NetState  # train_state or test_state[i]; see `merge_state`
    test_iter: int  # batches of one test pass; 0 for the training net


class SolverNets(NamedTuple):
    """The nets of a solver."""

    train: NetUse
    tests: tuple[NetUse, ...]  # in the order in which Caffe numbers its test nets


def solver_nets(solver: caffe_pb2.SolverParameter, where: str = "") -> SolverNets:
    """Finds the training net and the test nets of a solver.

    Test nets are every test_net_param, then every test_net, then `net` or `net_param`
    once for each test_iter left over.

    Args:
      solver: a SolverParameter; nothing is read from disk.
      where: path of the solver file, for messages.

    Returns:
      SolverNets; inline nets are those of `solver`, not copies.

    Raises:
      PrototxtError: not exactly one of net, net_param, train_net and train_net_param;
        test_iter not once per test net; test_state neither absent nor once per test
        net; test nets without a test_interval.
    Source: caffe/src/caffe/solver.cpp, InitTrainNet and InitTestNets. Differs: none.
    """
    train_field = _find_train_field(solver, where)
    train = NetUse(
        train_field,
        getattr(solver, train_field),
        caffe_pb2.TRAIN,
        solver.train_state,
        0,
    )

    named: list[tuple[str, str | caffe_pb2.NetParameter]] = [
        *(("test_net_param", net) for net in solver.test_net_param),
        *(("test_net", path) for path in solver.test_net),
    ]
    num_tests = len(solver.test_iter)
    is_generic = train_field in ("net", "net_param")
    _check_tests(solver, len(named), is_generic, where)
    nets = named + [(train_field, train.net)] * (num_tests - len(named))
    states = list(solver.test_state) or [caffe_pb2.NetState() for _ in nets]
    tests = tuple(
        NetUse(kind, net, caffe_pb2.TEST, state, test_iter)
        for (kind, net), state, test_iter in zip(
            nets, states, solver.test_iter, strict=True
        )
    )
    return SolverNets(train, tests)


def merge_state(use: NetUse, net: caffe_pb2.NetParameter) -> caffe_pb2.NetState:
    """Returns the NetState under which a net is filtered.

    The phase of the use comes first, what the net's own `state` sets goes over it, and
    what the solver's state sets over both; stages add up.

    Args:
      use: one of `solver_nets`.
      net: the net that `use` names, read; not changed.
    Source: caffe/src/caffe/solver.cpp, InitTrainNet and InitTestNets. Differs: none.
    """
    state = caffe_pb2.NetState(phase=use.phase)
    state.MergeFrom(net.state)
    state.MergeFrom(use.state)
    return state


def ask(uses: SolverNets, asked: caffe_pb2.NetState | None) -> SolverNets:
    """Returns the nets with the level and stages that a command line asks for.

    Args:
      uses: from `solver_nets`.
      asked: its phase says whether it is for the training net or for the test nets; a
        level replaces that of the solver, stages are added. None changes nothing.
    Source: caffe/tools/caffe.cpp, train and test. Differs: none.
    """
    if asked is None:
        return uses

    def put_over(use: NetUse) -> NetUse:
        if use.phase != asked.phase:
            return use
        state = caffe_pb2.NetState()
        state.CopyFrom(use.state)
        state.MergeFrom(asked)
        return use._replace(state=state)

    return SolverNets(put_over(uses.train), tuple(map(put_over, uses.tests)))


def _find_train_field(solver: caffe_pb2.SolverParameter, where: str) -> str:
    given = [field for field in TRAIN_FIELDS if solver.HasField(field)]
    accepted = f"exactly one of {', '.join(TRAIN_FIELDS)}"
    if not given:
        raise PrototxtError(describe(where, "no training net is given", accepted))
    if len(given) > 1:
        problem = f"{' and '.join(given)} are both set"
        if len(given) > 2:
            problem = f"{', '.join(given)} are all set"
        raise PrototxtError(describe(where, problem, accepted))
    return given[0]


def _check_tests(
    solver: caffe_pb2.SolverParameter, num_named: int, is_generic: bool, where: str
) -> None:
    num_tests = len(solver.test_iter)
    if num_tests < num_named or (num_tests > num_named and not is_generic):
        at_least = "at least " if is_generic else ""
        raise PrototxtError(
            describe(
                where,
                f"test_iter is given {num_tests} times for {num_named} nets named by"
                " test_net or test_net_param",
                f"{at_least}one test_iter for each, {at_least}{num_named} here",
            )
        )
    num_states = len(solver.test_state)
    if num_states not in (0, num_tests):
        raise PrototxtError(
            describe(
                where,
                f"test_state is given {num_states} times for {num_tests} test nets",
                f"no test_state, or one for each test net, {num_tests} here",
            )
        )
    if num_tests and solver.test_interval < 1:
        raise PrototxtError(
            describe(
                where,
                f"test_iter is set and test_interval is {solver.test_interval}",
                "test_interval >= 1, in iterations, as in test_interval: 500",
            )
        )
