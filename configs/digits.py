"""LeNet on the handwritten digits of scikit-learn, made on first use.

  python -m jaxcaffe.train configs/digits.py

Cost: 400 iterations of 64 images of 8x8 pixels; 35 seconds on two busy CPU cores, data
and compiling included. Needs `pip install 'jaxcaffe[digits]'`; downloads nothing.
Expected: 98 to 99 % of the 360 test images.
"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.solver = "prototxt/lenet_digits/solver.prototxt"
    config.weights = ""  # from the fillers, not from a .caffemodel
    config.workdir = "runs/digits"  # Orbax snapshots, logs, curves
    config.prepare = "digits"  # makes data/digits: images, databases, mean
    config.seed = 1701  # as the solver's random_seed
    config.precision = "parity"  # float32 throughout, as Caffe
    config.devices = 0  # all of them
    config.batch = "global"  # batch_size of the prototxt, divided among the devices
    config.max_iter = 0  # the solver's
    config.steps_per_dispatch = 10  # iterations: each is short
    config.data.source_train = ""  # the LMDB that the prototxt names
    config.data.source_test = ""  # likewise
    config.data.shuffle = True  # anew every epoch, by seed
    config.data.threads = 2  # a record is small
    config.data.processes = 0  # reading LMDB needs none
    config.data.prefetch = 2  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 2  # both that the solver makes
    config.snapshot.caffe = True  # also Caffe's files, at snapshot_prefix
    return config
