r"""Caffe's quick CIFAR-10 net, first stage of its tutorial.

  python -m jaxcaffe.datasets.cifar10 cifar-10-batches-bin data/cifar10
  python -m jaxcaffe.tools.compute_image_mean \
    data/cifar10/cifar10_train_lmdb data/cifar10/mean.binaryproto
  python -m jaxcaffe.train configs/cifar10_quick.py

With the images as JPEG or PNG files and lists of them (`path label` lines), in place of
the first command:

  python -m jaxcaffe.tools.convert_imageset IMAGES/ IMAGES/train.txt \
    data/cifar10/cifar10_train_lmdb
  python -m jaxcaffe.tools.convert_imageset IMAGES/ IMAGES/test.txt \
    data/cifar10/cifar10_test_lmdb

The second stage, at a tenth of the rate, goes on from the first one's end:

  python -m jaxcaffe.train configs/cifar10_quick.py --resume \
    --config.solver=prototxt/cifar10_quick/solver_lr1.prototxt

Cost: 4000 and then 1000 iterations of 100 images of 32x32 pixels, about 1.9e13
multiplications, four times those of fashion_mnist.py: better on a GPU.
Expected: about 71 % of the 10,000 test images after the first stage and 75 % after the
second, as Caffe's tutorial has it. Measured on the images as JPEG files, seed 1: 70.8 %
and 74.4 %, in 30 minutes on two busy CPU cores.
"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.solver = "prototxt/cifar10_quick/solver.prototxt"
    config.weights = ""  # from the fillers, not from a .caffemodel
    config.workdir = "runs/cifar10_quick"  # Orbax snapshots, logs, curves
    config.prepare = ""  # the databases are made by hand, see above
    config.seed = -1  # from the clock: Caffe's solver fixes none
    config.precision = "parity"  # float32 throughout, as Caffe
    config.devices = 0  # all of them
    config.batch = "global"  # batch_size of the prototxt, divided among the devices
    config.max_iter = 0  # the solver's
    config.data.source_train = ""  # the LMDB that the prototxt names
    config.data.source_test = ""  # likewise
    config.data.shuffle = False  # Caffe's order: that of the keys
    config.data.threads = 2  # a record is small
    config.data.processes = 0  # reading LMDB needs none
    config.data.prefetch = 4  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 3  # the newest snapshots
    config.snapshot.caffe = True  # also Caffe's files, at snapshot_prefix
    return config
