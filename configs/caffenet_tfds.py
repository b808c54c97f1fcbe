"""CaffeNet on ILSVRC-2012 from TensorFlow Datasets, without databases.

Child of caffenet.py: only the records come from elsewhere. The images keep their JPEG
form on disk, and are decoded and warped to 256x256 pixels as they are read. TFDS wants
ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar under downloads/manual of its folder
and prepares them once:

  pip install 'jaxcaffe[tfds-prepare]'
  python -c "import tensorflow_datasets as tfds; tfds.builder(
      'imagenet2012', file_format='array_record').download_and_prepare()"
  python -m jaxcaffe.train configs/caffenet_tfds.py

The mean image, data/ilsvrc12/imagenet_mean.binaryproto, is needed here too.

Cost: that of caffenet.py, and decoding 115 million JPEG files on the host.
Expected: as caffenet.py, 57 % of the 50,000 validation images.
"""

import caffenet
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = caffenet.get_config()
    config.workdir = "runs/caffenet_tfds"
    config.data.source_train = "tfds:imagenet2012:train"  # 1,281,167 images
    config.data.source_test = "tfds:imagenet2012:validation"  # 50,000 images
    config.data.tfds_dir = ""  # TFDS's own default, ~/tensorflow_datasets
    config.data.resize = "warp"  # as convert_imageset; "short" keeps proportions
    config.data.size = 256  # pixels
    config.data.shuffle = True  # anew every epoch, by seed
    config.data.processes = 8  # decoding is what takes the time
    return config
