r"""Does it matter in which order SGD sees the records?

Caffe reads a database from front to back, every epoch alike. Is that worse than a new
order every epoch (data.shuffle), and how much does it depend on the list being in
random order when the database is made?

Parent: configs/digits.py, LeNet on 8x8 digits. Differs: the order is the file's; tests
and the displayed loss come every 10 iterations, the loss as the mean over an epoch
(2026-11-22_file_order_solver.prototxt). The arms differ in the database's list, random
as datasets.digits writes it or sorted by class, and in data.shuffle:

  train="python -m jaxcaffe.train experiments/2026-11-22_file_order.py"
  runs=runs/file_order
  for s in 1 2 3 4 5; do
    $train --config.seed=$s --config.workdir=$runs/list_$s
    $train --config.seed=$s --config.workdir=$runs/list_shuffled_$s \
      --config.data.shuffle=True
  done

  images=data/digits/images
  by_class=data/digits/digits_train_by_class_lmdb
  sort --stable --key=2,2n $images/train.txt > $images/train_by_class.txt
  python -m jaxcaffe.tools.convert_imageset --gray \
    $images/ $images/train_by_class.txt $by_class
  train="$train --config.data.source_train=lmdb:$by_class"
  slow=--config.solver=experiments/2026-11-22_file_order_slow_solver.prototxt
  for s in 1 2 3 4 5; do
    $train --config.seed=$s --config.workdir=$runs/by_class_$s
    $train --config.seed=$s --config.workdir=$runs/by_class_shuffled_$s \
      --config.data.shuffle=True
    $train $slow --config.seed=$s --config.workdir=$runs/slow_by_class_$s
    $train $slow --config.seed=$s --config.workdir=$runs/slow_by_class_shuffled_$s \
      --config.data.shuffle=True
  done

Result: five seeds an arm; 10 to 30 seconds a run on two busy CPU cores. Accuracy on the
360 test images in %, mean (lowest to highest): at iteration 400, and as the mean of the
11 tests from iteration 200 to 300, before the rate is cut tenfold.

  list       order      rate    at 400                  200 to 300
  random     file       0.05    98.72 (98.06 to 99.44)  97.99 (96.92 to 99.09)
  random     shuffled   0.05    98.89 (98.33 to 99.44)  98.77 (98.41 to 99.09)
  by class   file       0.05    4 of 5 seeds stop with a loss that is no finite number,
                                at iterations 30 to 50; the fifth stays at chance, 9.72
  by class   shuffled   0.05    98.78 (98.33 to 99.17)  98.60 (97.98 to 99.14)
  by class   file       0.005   93.67 (93.06 to 94.44)  88.54 (85.81 to 90.13)
  by class   shuffled   0.005   96.17 (95.83 to 96.67)  93.97 (93.64 to 94.52)

With a list in random order, file order does no harm that these runs could show at the
end: seed by seed, shuffling wins 0 or 1 test image (0.28 %), less than the seeds differ
among themselves. On the way file order is rougher; it trails by 0.8 on average from 200
to 300, in four of five seeds. The ranges are those of five seeds (fillers, and the
shuffle) on one split into 1437 and 360 images: another split may move all arms, and
one accuracy on 360 images is good to about 0.6 (standard error).

A list sorted by class is another matter. In file order two or three batches on end
hold one class: at the usual rate the net is lost within 50 iterations; at a tenth of it
the net learns, yet stays behind in every seed, by 2.2 to 2.8 at the end. Shuffling
while reading makes the list's order irrelevant. So a list sorted by class needs
convert_imageset --shuffle, or data.shuffle=True.

Not explained: in file order the displayed training loss is up from 310 to 330, just
after the rate is cut, in four of five seeds; not so with a shuffle. The cross is at the
last displayed iteration that all five seeds by class reached.

Curves: 2026-11-22_file_order.png, by

  arm() { seq -s, -f "$runs/$1_%g" 5; }
  jaxcaffe plot --out=experiments/2026-11-22_file_order.png \
    "list, file order=$(arm list)" "list, shuffled=$(arm list_shuffled)" \
    "by class, file order=$(arm by_class)" \
    "by class, shuffled=$(arm by_class_shuffled)" \
    "by class, file order, rate 0.005=$(arm slow_by_class)" \
    "by class, shuffled, rate 0.005=$(arm slow_by_class_shuffled)"
"""

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
