r"""LeNet on Fashion-MNIST.

  apt-get install dataset-fashion-mnist  # or the four files from its home page
  python -m jaxcaffe.datasets.fashion_mnist \
    /usr/share/datasets/fashion-mnist data/fashion_mnist
  python -m jaxcaffe.train configs/fashion_mnist.py

Cost: 10,000 iterations of 64 images of 28x28 pixels, about 4e12 multiplications; some
20 minutes on two busy CPU cores.
Expected: about 90 % of the 10,000 test images (87 % after 1000 iterations).
"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.solver = "prototxt/fashion_mnist/solver.prototxt"
    config.weights = ""  # from the fillers, not from a .caffemodel
    config.workdir = "runs/fashion_mnist"  # Orbax snapshots, logs, curves
    config.prepare = ""  # the databases are made by hand, see above
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
    config.data.prefetch = 4  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 3  # the newest snapshots
    config.snapshot.caffe = True  # also Caffe's files, at snapshot_prefix
    return config
