r"""CaffeNet on ILSVRC-2012, as in Caffe's ImageNet tutorial.

Records of 256x256 pixels, from images sorted into one folder for each synset:

  python -m jaxcaffe.tools.make_image_list ILSVRC2012/train data/ilsvrc12
  python -m jaxcaffe.tools.convert_imageset --shuffle --resize_height=256 \
    --resize_width=256 ILSVRC2012/train/ data/ilsvrc12/train.txt \
    data/ilsvrc12/ilsvrc12_train_lmdb

Likewise data/ilsvrc12/ilsvrc12_val_lmdb, from a list of the 50,000 validation images.
Then:

  python -m jaxcaffe.tools.compute_image_mean data/ilsvrc12/ilsvrc12_train_lmdb \
    data/ilsvrc12/imagenet_mean.binaryproto
  python -m jaxcaffe.train configs/caffenet.py

Cost: 450,000 iterations of 256 images of 227x227 pixels. Forward and backward passes
take about 2.2e9 multiplications an image, 2.5e17 in all.
Expected: 57 % of the 50,000 validation images on the centre crop (BVLC's published
weights: 57.4 % top-1, 80.4 % top-5).
"""

import ml_collections

from jaxcaffe.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.solver = "prototxt/caffenet/solver.prototxt"
    config.weights = ""  # from the fillers, not from a .caffemodel
    config.workdir = "runs/caffenet"  # Orbax snapshots, logs, curves
    config.prepare = ""  # the databases are made by hand, see above
    config.seed = -1  # from the clock: Caffe's solver fixes none
    config.precision = "parity"  # float32 throughout, as Caffe
    config.devices = 0  # all of them
    config.batch = "global"  # batch_size of the prototxt, divided among the devices
    config.max_iter = 0  # the solver's
    config.data.source_train = ""  # the LMDB that the prototxt names
    config.data.source_test = ""  # likewise
    config.data.shuffle = False  # the database was shuffled when it was made
    config.data.threads = 8  # each copies 0.2 MB a record
    config.data.processes = 0  # reading LMDB needs none
    config.data.prefetch = 4  # batches
    config.data.crop_on_host = False  # records are all of one size
    config.snapshot.keep = 3  # the newest of 45, 0.5 GB each
    config.snapshot.caffe = True  # and 45 pairs of Caffe's files, which all stay
    return config
