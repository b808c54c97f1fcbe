r"""What does stepping the learning rate buy on CIFAR-10?

Caffe's tutorial trains the quick net for 4000 iterations at 0.001 and for 1000 more at
0.0001. How much of what the second stage gains comes from the rate, and how much from
1000 more iterations?

Parent: configs/cifar10_quick.py. Differs: seed 1, and both arms go on from the first
stage's snapshot to iteration 5000: at the same rate, which is this config as it stands,
or at a tenth of it, Caffe's second stage. From the same weights and momentum they read
the same batches in the same order; the rate is all that differs. The first lines make
the data, from the binary version of https://www.cs.toronto.edu/~kriz/cifar.html:

  python -m jaxcaffe.datasets.cifar10 cifar-10-batches-bin data/cifar10
  python -m jaxcaffe.tools.compute_image_mean \
    data/cifar10/cifar10_train_lmdb data/cifar10/mean.binaryproto
  runs=runs/lr_step
  python -m jaxcaffe.train configs/cifar10_quick.py \
    --config.seed=1 --config.workdir=$runs/first
  train="python -m jaxcaffe.train experiments/2026-11-22_lr_step.py"
  train="$train --snapshot=$runs/first/snapshots/4000"
  $train --config.workdir=$runs/same
  $train --config.workdir=$runs/tenth \
    --config.solver=prototxt/cifar10_quick/solver_lr1.prototxt

Result: one seed; about 35 minutes for the first stage and 8 for each arm, on two CPU
cores that had other work too. On the 10,000 test images, accuracy in % and loss in nats
per image:

  iteration   at 0.001           at 0.0001
  4000        70.82   0.893      (the same weights)
  4500        70.34   0.912      74.34   0.777
  5000        70.65   0.899      74.36   0.773

The step buys 3.7 points; 1000 more iterations at the old rate buy none. The gain is
there within 500 iterations and does not grow after. On the nine batches whose loss is
displayed after 4000, training loss is lower with the step on every one, by 0.05 to
0.11, on average 0.61 instead of 0.69.

One seed says nothing about the spread over seeds. Two yardsticks that it does give: an
accuracy near 72 % on 10,000 images has a standard error of 0.45, and the last three
tests at 0.001 (4000 to 5000) lie within 0.5 of one another. A gain of 3.7 is far
outside both; its second digit is not to be trusted. Nor does this say that 0.001 would
never get there: from 2500 to 4000 it still rose, from 68.8 to 70.8.

Curves: 2026-11-22_lr_step.png, by

  jaxcaffe plot --out=experiments/2026-11-22_lr_step.png --accuracy_from=45 \
    "first stage, rate 0.001=$runs/first" \
    "on at 0.001=$runs/same" "on at 0.0001=$runs/tenth"
"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of the arm that stays at the rate of the first stage."""
    config = default_config()
    config.solver = "prototxt/cifar10_quick/solver.prototxt"
    config.weights = ""  # none: the arms go on from a snapshot
    config.workdir = "runs/lr_step/same"  # Orbax snapshots, logs, curves
    config.prepare = ""  # the databases are made by hand, see above
    config.seed = 1  # fillers; the order is that of the database
    config.precision = "parity"  # float32 throughout, as Caffe
    config.devices = 0  # all of them
    config.batch = "global"  # batch_size of the prototxt, divided among the devices
    config.max_iter = 5000  # as solver_lr1.prototxt: 1000 more than the first stage
    config.data.source_train = ""  # the LMDB that the prototxt names
    config.data.source_test = ""  # likewise
    config.data.shuffle = False  # Caffe's order: that of the keys
    config.data.threads = 2  # a record is small
    config.data.processes = 0  # reading LMDB needs none
    config.data.prefetch = 4  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 3  # the newest snapshots
    return config
