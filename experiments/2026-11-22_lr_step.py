"""What does stepping the learning rate buy on CIFAR-10?"""

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
