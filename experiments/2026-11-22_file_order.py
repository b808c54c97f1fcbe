"""Does it matter in which order SGD sees the records?"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the config of the first arm: the shuffled list, in file order."""
    config = default_config()
    config.solver = "experiments/2026-11-22_file_order_solver.prototxt"
    config.weights = ""  # from the fillers, not from a .caffemodel
    config.workdir = "runs/file_order"  # Orbax snapshots, logs, curves
    config.prepare = "digits"  # makes data/digits: images, databases, mean
    config.seed = 1  # fillers, and the shuffle where there is one
    config.precision = "parity"  # float32 throughout, as Caffe
    config.devices = 0  # all of them
    config.batch = "global"  # batch_size of the prototxt, divided among the devices
    config.max_iter = 0  # the solver's
    config.data.source_train = ""  # the LMDB that the prototxt names
    config.data.source_test = ""  # likewise
    config.data.shuffle = False  # file order, epoch after epoch, as Caffe
    config.data.threads = 2  # a record is small
    config.data.processes = 0  # reading LMDB needs none
    config.data.prefetch = 2  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 1  # the last one
    return config
