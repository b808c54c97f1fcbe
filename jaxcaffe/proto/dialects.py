"""What only forks of Caffe have, and which: layer and filler types, fields, values.

Names and numbers come from each fork's src/caffe/proto/caffe.proto, its layers'
REGISTER_LAYER_CLASS and its include/caffe/filler.hpp; the answers name a fork by its
work and its repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.descriptor import Descriptor, EnumDescriptor

FORKS = {
    "ssd": "SSD (weiliu89/caffe)",
    "frcnn": "Faster R-CNN (rbgirshick/caffe-fast-rcnn)",
    "rfcn": "R-FCN (daijifeng001/caffe-rfcn)",
    "segnet": "SegNet (alexgkendall/caffe-segnet)",
    "pspnet": "PSPNet (hszhao/PSPNet)",
    "deeplab": "DeepLab (deeplab-public)",
    "nvcaffe": "NVCaffe (NVIDIA/caffe)",
    "intel": "Intel Caffe (intel/caffe)",
    "crfrnn": "CRF-RNN (torrvision/crfasrnn)",
    "tsn": "TSN (yjxiong/caffe)",
    "lrcn": "LRCN (LisaAnne/lisa-caffe-public)",
    "mobilenet": "MobileNet's plug-ins (yonghenglh6/DepthwiseConvolution)",
    "shufflenet": "ShuffleNet's plug-in (farmingyard/ShuffleNet)",
    "senet": "SENet's plug-in (hujie-frank/SENet)",
    "refinedet": "RefineDet (sfzhang15/RefineDet)",
    "mobilenet_ssd": "MobileNet-SSD (chuanqi305/ssd)",
    "mnc": "MNC (daijifeng001/caffe-mnc)",
    "microsoft": "Microsoft Caffe (Microsoft/caffe)",
    "pvanet": "PVANET (sanghoon/caffe)",
    "mscnn": "MS-CNN (zhaoweicai/mscnn)",
    "cascade": "Cascade R-CNN (zhaoweicai/cascade-rcnn)",
    "yolo": "YOLO (yeahkun/caffe-yolo)",
    "yolo2": "YOLOv2 (BirdeeChen/caffe_yolo_v2)",
    "mobilenet_yolo": "MobileNet-YOLO (eric612/MobileNet-YOLO)",
    "flownet2": "FlowNet 2.0 (lmb-freiburg/flownet2)",
    "openpose": "OpenPose (openpose_caffe_train)",
    "rtpose": "real-time pose (CMU-Perceptual-Computing-Lab/caffe_rtpose)",
    "c3d": "C3D (facebookarchive/C3D)",
    "center": "center loss (ydwen/caffe-face)",
    "lsoftmax": "L-Softmax (wy1iu/LargeMargin_Softmax_Loss)",
    "sphereface": "SphereFace (wy1iu/sphereface)",
    "happynear": "caffe-windows (happynear/caffe-windows)",
    "hed": "HED (s9xie/hed)",
    "augment": "caffe-augmentation (twtygqyy/caffe-augmentation)",
    "lstm": "caffe-lstm (junhyukoh/caffe-lstm)",
    "recurrent": "the recurrent branch (jeffdonahue/caffe)",
    "ssl": "SSL (wenwei202/caffe)",
    "skimcaffe": "SkimCaffe (IntelLabs/SkimCaffe)",
    "ristretto": "Ristretto (pmgysel/caffe)",
    "surgery": "Dynamic Network Surgery (yiwenguo/Dynamic-Network-Surgery)",
    "ctpn": "CTPN (tianzhi0549/CTPN)",
    "deepbit": "DeepBit (kevinlin311tw/cvpr16-deepbit)",
    "deepcut": "DeeperCut (eldar/deepcut-cnn)",
    "dgd": "Domain Guided Dropout (Cysu/caffe)",
    "video": "video-caffe (chuckcho/video-caffe)",
    "deconvnet": "DeconvNet (HyeonwooNoh/caffe)",
    "cpm": "pose machines (CMU-Perceptual-Computing-Lab/caffe_train)",
    "excitation": "Excitation Backprop (jimmie33/Caffe-ExcitationBP)",
    "spark": "CaffeOnSpark (yahoo/caffe)",
    "ducha": "ducha-aiki/caffe",
    "apollo": "ApolloCaffe (BestSonny/apollocaffe)",
    "opencl": "OpenCL Caffe (naibaf7/caffe)",
    "synopsys": "Synopsys Caffe (synopsys-caffe)",
}
"""Key in the tables below -> name for messages; the best known come first."""

_SHOWN = 4  # forks named in one message

_GROUPED = 'type "Convolution" with group: as many as the bottom has channels'
_TYPES_INSTEAD = {"ConvolutionDepthwise": _GROUPED, "DepthwiseConvolution": _GROUPED}
_FIELDS_INSTEAD = {
    ("ConvolutionParameter", "hole"): "dilation",
    ("ConvolutionParameter", "hole_h"): "dilation, once for rows and once for columns",
    ("ConvolutionParameter", "hole_w"): "dilation, once for rows and once for columns",
    ("InnerProductParameter", "transpose_weights"): "transpose",
    ("PoolingParameter", "ceil_mode"): "round_mode: CEIL or FLOOR",
    ("PoolingParameter", "torch_pooling"): "round_mode: FLOOR",
}

# A line is a layer type and the forks that register it; an indented line continues it.
_TYPES = """
Accum flownet2 synopsys
AdaptiveBiasChannel pspnet deeplab synopsys
Add synopsys
Affinity opencl
AnnotatedData ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo synopsys
Arccos happynear
AssistedExcitation mobilenet_yolo
Atan synopsys
Attention synopsys
Axpy nvcaffe intel senet mobilenet_yolo happynear
BEGANLoss synopsys
BN segnet pspnet tsn lsoftmax happynear dgd ducha synopsys
BatchContrastiveLoss happynear
BatchReduction tsn
BatchToSpaceND synopsys
BboxAccuracy mscnn cascade
BiasChannel pspnet deeplab synopsys
Bilinear lrcn
BlackAugmentation flownet2 synopsys
BlackHole c3d
BoxAnnotatorOHEM rfcn intel microsoft
BoxData intel yolo yolo2
BoxGroupOutput cascade
BoxOutput mscnn
BroadcastTo synopsys
CConvolution surgery
CInnerProduct surgery
CPMData cpm
CapSequence apollo
Ceil synopsys
CenterLoss center happynear
ChannelNorm flownet2 synopsys
ChannelScale happynear
ChannelShuffle shufflenet
CompactBilinear lrcn
ConfidencePenaltyLoss happynear
ConnectedComponent opencl
Convolution3D c3d
ConvolutionDepthwise mobilenet pvanet synopsys
ConvolutionReLU skimcaffe
ConvolutionReLUPool skimcaffe
ConvolutionReLUPoolLRN skimcaffe
ConvolutionRistretto ristretto
Corr1d synopsys
Correlation flownet2 synopsys
Correlation1D flownet2 synopsys
CorrelationLoss happynear
Cosine happynear
CountNonzero synopsys
Covariance ducha
CropAndResize synopsys
CustomData flownet2
DataAugmentation flownet2 synopsys
DecodeBBox mscnn cascade
Deconvolution3D c3d
DeconvolutionRistretto ristretto
DenseCRF pspnet deeplab synopsys
DenseImageData segnet synopsys
DepthToSpace synopsys
DepthwiseConvolution mobilenet mobilenet_yolo
DetectNetTransformation nvcaffe
DetectionAccuracy mscnn
DetectionData cascade
DetectionEvaluate ssd nvcaffe intel refinedet mobilenet_ssd cascade mobilenet_yolo
    synopsys
DetectionGroupAccuracy cascade
DetectionGroupLoss cascade
DetectionLoss mscnn yolo
DetectionOutput ssd nvcaffe intel refinedet mobilenet_ssd yolo2 mobilenet_yolo
    synopsys
DisparityData flownet2
Div synopsys
DomainTransform pspnet deeplab synopsys
DomainTransformForwardOnly pspnet deeplab synopsys
Downsample flownet2 synopsys
EltwiseAffine ducha
EmbeddingLookup synopsys
EmbeddingLookupSparse synopsys
EuclideanLossWithIndex ducha
EuclideanmaskLoss rtpose
EvalData cascade
EvalDetection intel yolo
EvenDistLoss deepbit
ExpandDimsND synopsys
FCNAccuracy happynear
FLOWriter flownet2 synopsys
FacesProposal pvanet
FarthestPointSample synopsys
FcRistretto ristretto
FeatureDecayLoss happynear
Flip happynear
FloatReader flownet2 synopsys
FloatWriter flownet2 synopsys
Floor synopsys
FloorDiv synopsys
FloorMod synopsys
FlowAugmentation flownet2 synopsys
FlowWarp flownet2 synopsys
FocalLoss happynear
FrcnnOutput cascade
GANLoss synopsys
GRU synopsys
Gather tsn synopsys
GatherND synopsys
GatherV2 synopsys
GaussianYolov3 mobilenet_yolo
Gemm synopsys
GeneralContrastiveLoss happynear
GeneralTripletLoss happynear
GenerateAugmentationParameters flownet2 synopsys
GlobalLSEMargin happynear
Gram happynear
GroupPoint synopsys
HardMining cascade
HardSigmoid synopsys
HardSwish synopsys
HardTanH synopsys
Hotspot happynear
HungarianLoss apollo
ICNetSubgraph synopsys
ImResize rtpose
ImageGtData mscnn
ImageLabelmapData hed
ImageLocData ducha
ImageSegData pspnet deeplab synopsys
ImgReader flownet2
ImgWriter flownet2
InnerDistance happynear
InnerProductReLUDropout skimcaffe
Insanity happynear
Interp pspnet deeplab synopsys
L1Loss nvcaffe flownet2 synopsys
L2Normalize lrcn c3d
LRNRistretto ristretto
LabelSpecificAdd happynear
LabelSpecificAffine happynear
LabelSpecificHardMargin happynear
LabelSpecificMargin happynear
LabelSpecificRescale happynear
LabelSpecificStatistics happynear
LaneData mobilenet_yolo
LargeMarginInnerProduct lsoftmax happynear
LayerNorm synopsys
LibDNNConvolution opencl
LibDNNPooling opencl
Local happynear ducha
LogSoftmax synopsys
LpNormalization synopsys
LpqLoss flownet2 synopsys
Lstm lstm ctpn
LstmUnit apollo
LuongAttention synopsys
MKLBatchNorm intel skimcaffe
MKLConvolution skimcaffe
MKLLRN skimcaffe
MKLPooling skimcaffe
MKLReLU skimcaffe
MPIGather dgd
MPIScatter dgd
MalisLoss opencl
MarginInnerProduct sphereface happynear
MaskPooling mnc
MaskRCNNDetection synopsys
MaskRCNNProposal synopsys
MaskResize mnc
MatData apollo
MatMul synopsys
MatRead pspnet deeplab synopsys
MatWrite pspnet deeplab synopsys
Maximum rtpose synopsys
Mean flownet2 synopsys
MergeCrop opencl
MinQuantizeLoss deepbit
Minimum synopsys
MirrorPad synopsys
Mish synopsys
MnActivation intel
MovingNormalize happynear
Mul synopsys
MultiBoxLoss ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo synopsys
MultiLabelImageData happynear
MultiStageMeanfield crfrnn
MultilabelLogisticLoss tsn
NCALoss happynear
NMS synopsys
NMSGather synopsys
NdConvolution video
NdPooling video
NegReLU flownet2
Nms rtpose
Noise happynear opencl
NonMaxSuppression synopsys
Normalize ssd nvcaffe intel tsn refinedet mobilenet_ssd mobilenet_yolo happynear ducha
    synopsys
NotEqual synopsys
NumpyData apollo
OPData openpose
OPVideo openpose
OneHot synopsys
PFMWriter flownet2
PSROIPooling rfcn intel microsoft cascade happynear
Pad synopsys
Pairwise happynear
PeepholeLSTM synopsys
Permute ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo happynear synopsys
Piece synopsys
Pooling3D c3d synopsys
PoseData deepcut
Pow synopsys
PredictBox happynear
PriorBox ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo synopsys
Proposal pvanet happynear synopsys
ProposalTarget mscnn cascade
Py apollo
PyramidROIAlign synopsys
Quantizer opencl
QueryBallPoint synopsys
RNNv2 synopsys
ROIAlign mscnn cascade synopsys
ROIPooling frcnn rfcn intel tsn mnc microsoft pvanet mscnn cascade happynear ctpn
    ducha synopsys
ROIWarping mnc
RReLU ducha
RadialRemovalMargin happynear
Range synopsys
ReLU6 mobilenet_ssd mobilenet_yolo
ReLUPooling skimcaffe
ReduceAll synopsys
ReduceAny synopsys
ReduceL1 synopsys
ReduceL2 synopsys
ReduceLogSumExp synopsys
ReduceMax synopsys
ReduceMean synopsys
ReduceMin synopsys
ReduceProd synopsys
ReduceSum synopsys
Region yolo2
RegionLoss intel yolo2 mobilenet_yolo
Reorg intel yolo2 mobilenet_yolo synopsys
Resample flownet2 synopsys
Resize happynear
ResizeBilinear synopsys
ResizeNearestNeighbor synopsys
Reverse ctpn synopsys
ReverseSequence synopsys
Round synopsys
SSDDecoder synopsys
SSDSort synopsys
Sample lrcn
Scalar lrcn recurrent
ScaleRoute cascade
ScaledTanH synopsys
Scatter tsn
ScatterND synopsys
SeLU synopsys
SeLUDropout synopsys
SegAccuracy pspnet deeplab synopsys
SegData tsn
SegmentationEvaluate mobilenet_yolo
SequenceData tsn
Shape synopsys
ShuffleChannel shufflenet pvanet synopsys
SignedSqrt lrcn
SimpleRNN synopsys
Sin synopsys
Slope happynear
SmoothL1Loss ssd frcnn rfcn nvcaffe intel tsn refinedet mobilenet_ssd mnc microsoft
    pvanet mscnn cascade mobilenet_yolo happynear ctpn deepcut dgd ducha synopsys
SmoothL1LossOHEM intel microsoft
SoftContrastiveLoss happynear
SoftTruncation happynear
SoftmaxPerInstLoss lrcn
SoftmaxWithLossOHEM intel microsoft
SoftmaxWithLossVec deepcut
Softplus synopsys
Softsign synopsys
SpaceToBatchND synopsys
SpaceToDepth synopsys
SparseToDense synopsys
Sparsify ssl
SpatialBatchingPooling synopsys
SpatialDropout intel
SpatialProduct pspnet deeplab synopsys
Squeeze synopsys
SqueezeConvolution synopsys
SqueezeDeconvolution synopsys
SqueezeInnerProduct synopsys
Stack synopsys
StridedSlice synopsys
Sub synopsys
SubRegion happynear
SymmetricRectify ssl
SyncBN tsn
TRT nvcaffe
Tensor2Box synopsys
ThreeInterpolate synopsys
ThreeNN synopsys
ThresholdedReLU synopsys
TileND synopsys
TopkGather synopsys
TransformLoss deepbit
Transformer happynear ducha
Transpose ctpn apollo
TripletLoss happynear ducha
Truncation happynear
UniqueLabel pspnet deeplab synopsys
Unstack synopsys
Upsample segnet mobilenet_yolo synopsys
UpsampleDarknet synopsys
VideoData ssd nvcaffe intel tsn refinedet mobilenet_ssd c3d video synopsys
Where4 synopsys
Where4Gathernd synopsys
Where4GatherndCrop synopsys
Winograd skimcaffe
Wordvec apollo
XLU synopsys
YoloDetectionOutput mobilenet_yolo
YoloSeg mobilenet_yolo
YoloV2Loss synopsys
YoloV3Loss synopsys
Yolov3 mobilenet_yolo
Yolov3DetectionOutput mobilenet_yolo
"""

# As above, for `type` of a filler.
_FILLERS = """
diagonal flownet2 synopsys
gabor intel
gaussian_unitball happynear
identity happynear
"""

# Messages of the schema at the margin. Below them, for each field that the schema
# lacks or has under another number: its number in a fork and the forks, then after a
# semicolon other numbers. A union of dialects would renumber what clashes.
_FIELDS = """
AccuracyParameter
  denominator 4 lrcn
  min_is_better 4 happynear
ArgMaxParameter
  min_first 4 synopsys
BatchNormParameter
  add_eps_before_sqrt 4 synopsys
  bias_filler 8 intel happynear skimcaffe; 6 nvcaffe
  bias_term 6 intel skimcaffe
  disable_mean 4 happynear
  disable_variance 5 happynear
  engine 15 nvcaffe happynear; 4 intel
  filler 7 intel skimcaffe
  fused_relu 4 opencl
  icnet 7 synopsys
  relu 10 intel
  scale_bias 7 nvcaffe
  scale_filler 5 nvcaffe; 7 happynear
  stats_batch_size 9 intel
  update_global_stats 4 pspnet deeplab; 6 synopsys
  use_weight_bias 5 intel skimcaffe
BiasParameter
  bias_scale 6 synopsys
  bias_zero_point 9 synopsys
  input_scale 4 synopsys
  input_zero_point 7 synopsys
  output_scale 5 synopsys
  output_zero_point 8 synopsys
  quantize_method 11 synopsys
  saturate 10 synopsys
BlobProto
  data 6 c3d
  data_type 13 opencl
  diff 7 c3d
  height 4 c3d
  length 3 c3d; 7777 video
  packed_data 11 opencl
  packed_diff 12 opencl
  raw_data 12 nvcaffe
  raw_data_type 10 nvcaffe
  raw_diff 13 nvcaffe
  raw_diff_type 11 nvcaffe
  shape_stride 10 opencl
  width 5 c3d
ConcatParameter
  engine 3 intel
  input_scale 3 synopsys
  input_zero_point 5 synopsys
  output_scale 4 synopsys
  output_zero_point 6 synopsys
  per_fla_fuse 4 intel
  quantize_method 8 synopsys
  saturate 7 synopsys
ConvolutionParameter
  axis 20 tsn
  bias_filler 10 c3d
  binary 19 openpose
  coeff 23 intel
  conv_algorithm 21 intel
  conv_algos_override 20 nvcaffe
  conv_mode 21 skimcaffe
  cudnn_convolution_algo_seeker 19 nvcaffe happynear
  dilation 16 tsn
  dilation_h 17 tsn
  dilation_w 18 tsn
  dis_mode 20 synopsys
  dump_activation 23 skimcaffe
  dump_parameter 22 skimcaffe
  eltwise_param 20 opencl
  filter_group 11 c3d
  force_nd_im2col 19 tsn
  fuse_type 19 opencl
  fusion_type 24 intel
  gen_mode 21 synopsys
  hole 17 deeplab
  hole_h 18 deeplab
  hole_w 19 deeplab
  input_scale 30 synopsys
  input_zero_point 35 synopsys
  kernel_depth 6 c3d
  kernel_shape 7778 video
  negative_slope 20 intel
  output_scale 31 synopsys
  output_zero_point 36 synopsys
  pad_b 29 synopsys
  pad_l 26 synopsys
  pad_r 27 synopsys
  pad_shape 7777 video
  pad_t 28 synopsys
  pad_type 19 synopsys
  parameter_sparsity_pattern_histogram 24 skimcaffe
  per_channel_scale_output 41 synopsys
  per_channel_scale_weight 39 synopsys
  quantize_method 40 synopsys
  relu 19 intel
  relu_param 30 opencl
  saturate 32 synopsys
  shape_offset 20 happynear; 22 synopsys
  stride 7 c3d
  stride_shape 7779 video
  submanifold_sparse 42 synopsys
  temporal_pad 12 c3d
  temporal_stride 8 c3d
  tf_pad 19 mobilenet_ssd
  weight_filler 9 c3d
  weight_fixed 23 synopsys
  weight_scale 33 synopsys
  weight_zero_point 37 synopsys
CropParameter
  offset_height 1 deepcut
  offset_width 2 deepcut
DataParameter
  block_size 3013 flownet2 synopsys
  cache 13 nvcaffe
  disk_reader_threads 4001 flownet2 synopsys
  encoding 3009 flownet2 synopsys
  huge_video_dataset 7000 flownet2 synopsys
  limit_samples 7001 flownet2 synopsys
  num_label 12 yolo2
  parser_threads 12 nvcaffe
  permute_every_iter 3012 flownet2 synopsys
  precache 16 nvcaffe
  preselection_file 3001 flownet2 synopsys
  preselection_label 3002 flownet2 synopsys
  rand_permute 3005 flownet2 synopsys
  rand_permute_order 3006 flownet2 synopsys
  rand_permute_seed 3007 flownet2 synopsys
  random 22 synopsys
  range_end 3004 flownet2 synopsys
  range_start 3003 flownet2 synopsys
  show_data 8 c3d
  shuffle 10 tsn; 11 intel; 14 nvcaffe
  shuffle_buffer_size 10 ducha
  shuffle_pool_size 10 dgd
  side 11 yolo yolo2 synopsys; 12 intel
  slice_point 3008 flownet2 synopsys
  subtract 3011 flownet2 synopsys
  threads 11 nvcaffe
  verbose 3010 flownet2 synopsys
Datum
  record_id 8 nvcaffe
  seg_label 8 mobilenet_yolo
DropoutParameter
  engine 2 nvcaffe
  random_seed 3 nvcaffe
  sample_weights_test 2 segnet synopsys
  scale_train 2 frcnn rfcn mnc microsoft ctpn opencl; 3 synopsys
  sqrt_scale 2 happynear
ELUParameter
  lambda 2 nvcaffe
  symmetric_mode 2 ducha
EltwiseParameter
  axis 6 synopsys
  coeff_blob 4 lrcn
  engine 4 intel
  input_scale 14 synopsys
  input_zero_point 16 synopsys
  output_scale 15 synopsys
  output_zero_point 17 synopsys
  quantize_method 18 synopsys
  saturate 5 synopsys
FillerParameter
  alpha 9 happynear
  diag_val 9 flownet2 synopsys
  scale 9 intel
ImageDataParameter
  balance_by 23 happynear
  balance_class 22 happynear
  cache 15 nvcaffe
  clip_max 23 c3d
  clip_min 22 c3d
  dataset_share_per_node 17 nvcaffe
  face_mirror 20 happynear
  face_point_num 21 happynear
  face_transform 13 happynear
  has_label 13 deeplab deconvnet
  ignore_label 15 pspnet deeplab deconvnet synopsys
  is_flow 20 c3d
  label_cut_end 25 happynear
  label_cut_start 24 happynear
  label_dim 13 excitation
  label_type 16 pspnet deeplab deconvnet synopsys
  label_vector 14 excitation
  max_aspect_ratio 15 happynear
  max_labels 14 deeplab deconvnet
  max_random_scale 18 happynear
  max_random_shift 19 happynear
  max_rotate_angle 16 happynear
  max_shear_ratio 14 happynear
  mean_value 17 c3d
  min_height 13 intel lrcn
  min_random_scale 17 happynear
  min_width 14 intel lrcn
  new_length 11 c3d
  num_truth_channels 18 c3d
  other_object_label 17 deconvnet
  precache 16 nvcaffe
  sampling_rate 14 c3d
  short_side 13 nvcaffe
  show_data 12 c3d
  threads 14 nvcaffe
  truth_scale 21 c3d
  use_byte_input 19 c3d
  use_image 13 c3d
  use_label 15 c3d
  use_temporal_jitter 16 c3d
InnerProductParameter
  dis_mode 8 synopsys
  dump_activation 11 skimcaffe
  dump_parameter 10 skimcaffe
  engine 7 intel
  gemm_mode 7 skimcaffe
  gen_mode 9 synopsys
  input_scale 11 synopsys
  input_zero_point 15 synopsys
  negative_slope 9 intel
  normalize 7 happynear
  output_4d 6 apollo
  output_scale 12 synopsys
  output_zero_point 16 synopsys
  quantize_method 20 synopsys
  relu 8 intel
  saturate 19 synopsys
  spmdm_transpose_in 8 skimcaffe
  spmdm_transpose_out 9 skimcaffe
  transpose_weights 6 lrcn
  weight_fixed 7 synopsys
  weight_scale 13 synopsys
  weight_zero_point 17 synopsys
InputParameter
  output_scale 2 synopsys
  output_zero_point 3 synopsys
LRNParameter
  fuse_type 7 opencl
  input_scale 7 synopsys
  output_scale 8 synopsys
  pooling_param 8 opencl
  unit_test_fuse_kernel 10 opencl
  unit_test_mode 9 opencl
LayerParameter
  accum_param 160 flownet2 synopsys
  adaptive_bias_channel_param 148 pspnet deeplab; 178 synopsys
  affinity_param 149 opencl
  annotated_data_param 200 ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo
      synopsys
  attention_param 270 synopsys
  augmentation_param 149 flownet2 synopsys
  autotune 20 opencl
  backward_math 148 nvcaffe
  backward_type 146 nvcaffe
  batch_contrastive_loss_param 223 happynear
  batch_reduction_param 162 tsn
  batch_to_space_nd_param 235 synopsys
  bbox_reg_param 150 cascade; 154 mscnn
  bias_channel_param 149 pspnet deeplab; 169 synopsys
  bias_param 161 tsn
  black_augmentation_param 161 flownet2 synopsys
  blobs_quantizer 19 opencl
  bn_param 45 segnet synopsys; 137 tsn dgd; 152 pspnet; 200 happynear; 202 ducha; 144
      ctpn; 201 lsoftmax
  bottom_data_type 12 opencl
  bottom_quantizer 16 opencl
  bottom_shared_index 96 opencl
  box_annotator_ohem_param 150 microsoft; 152 intel; 10000 rfcn
  box_group_output_param 158 cascade
  box_output_param 151 mscnn
  broadcast_to_param 242 synopsys
  cconvolution_param 140 surgery
  center_loss_param 147 center; 211 happynear
  channel_scale_param 237 happynear
  cinner_product_param 141 surgery
  clip_param 248 synopsys
  coeff_schedule_param 148 flownet2 synopsys
  compact_bilinear_param 147 lrcn
  compute_data_type 13 opencl
  confidence_penalty_loss_param 234 happynear
  connectivity_mode 12 skimcaffe
  convolution3d_param 6661 c3d
  corr1d_param 281 synopsys
  correlation_param 150 flownet2 synopsys
  cos_data_param 10010 spark
  count_nonzero_param 273 synopsys
  cpm_transform_param 147 cpm
  crop_and_resize_param 220 synopsys
  crop_param 143 deepcut
  ctc_param 141 ctpn
  cudnn_math_override 150 nvcaffe
  debug 149 nvcaffe
  decode_bbox_param 155 mscnn cascade
  dense_crf_param 146 pspnet deeplab; 176 synopsys
  dense_image_data_param 46 segnet; 138 segnet; 168 synopsys
  depth_to_space_param 208 synopsys
  detection_accuracy_param 150 mscnn
  detection_data_param 151 cascade
  detection_evaluate_param 205 ssd nvcaffe intel refinedet mobilenet_ssd
      mobilenet_yolo synopsys; 161 cascade
  detection_group_accuracy_param 157 cascade
  detection_group_loss_param 156 cascade
  detection_loss_param 149 mscnn; 200 yolo
  detection_output_param 204 ssd nvcaffe intel refinedet mobilenet_ssd yolo2
      mobilenet_yolo synopsys
  detectnet_augmentation_param 6802 nvcaffe
  detectnet_groundtruth_param 6801 nvcaffe
  device 95 opencl
  display 12 ssl
  domain_transform_param 147 pspnet deeplab; 167 synopsys
  downsample_param 156 flownet2 synopsys
  eltwise_affine_param 205 happynear; 220 ducha
  elu_param 210 ducha
  embed_param 132 lrcn
  embedding_lookup_param 249 synopsys
  embedding_lookup_sparse_param 250 synopsys
  engine 149 intel
  eval_data_param 152 cascade
  eval_detection_param 201 yolo; 301 intel
  exp_triplet_loss_param 242 happynear
  expand_dims_nd_param 240 synopsys
  faces_proposal_param 7266712 pvanet
  fcn_data_param 210 happynear
  feature_decay_loss_param 233 happynear
  flip_param 212 happynear
  flow_warp_param 159 flownet2 synopsys
  focal_loss_param 235 happynear
  forward_math 147 nvcaffe
  forward_type 145 nvcaffe
  frcnn_output_param 160 cascade
  gan_loss_param 171 synopsys
  gather_nd_param 216 synopsys
  gather_param 211 synopsys
  gather_v2_param 264 synopsys
  gemm_param 251 synopsys
  general_contrastive_loss_param 215 happynear
  general_triplet_loss_param 217 happynear
  hard_mining_param 153 cascade
  hard_sigmoid_param 258 synopsys
  hotspot_param 208 happynear
  hungarian_loss_param 204 apollo
  image_gt_data_param 153 mscnn
  image_loc_data_param 401 ducha
  imresize_param 148 rtpose
  infimum_loss_param 229 happynear
  inner_distance_param 213 happynear
  insanity_param 202 happynear
  interp_param 143 pspnet deeplab; 163 synopsys
  l1_loss_param 151 flownet2 synopsys
  label_specific_add_param 241 happynear
  label_specific_affine_param 238 happynear
  label_specific_hard_margin_param 239 happynear
  label_specific_margin_param 236 happynear
  label_specific_rescale_param 228 happynear
  label_specific_statistics_param 240 happynear
  largemargin_inner_product_param 227 happynear; 202 lsoftmax
  layer_norm_param 277 synopsys
  local_param 201 happynear; 204 ducha
  log_softmax_param 267 synopsys
  lp_normalization_param 262 synopsys
  lpq_loss_param 158 flownet2 synopsys
  lstm_param 201 lstm; 140 ctpn
  lstm_unit_param 201 apollo
  margin_inner_product_param 232 happynear; 147 sphereface
  mask_resize_param 11890 mnc
  maskrcnn_detection_param 268 synopsys
  maskrcnn_proposal_param 269 synopsys
  mat_read_param 151 pspnet deeplab; 181 synopsys
  mat_write_param 145 pspnet deeplab; 165 synopsys
  matmul_param 263 synopsys
  mean_param 154 flownet2 synopsys
  mergecrop_param 148 opencl
  mil_data_param 5065028 microsoft happynear
  mil_param 5065036 microsoft happynear
  mirror_pad_param 238 synopsys
  mn_activation_param 151 intel
  mn_grad_compress_param 156 intel
  moe_param 150 opencl
  mul_param 278 synopsys
  multi_stage_meanfield_param 147 crfrnn
  multibox_loss_param 201 ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo
      synopsys
  multinode 150 intel
  nca_param 226 happynear
  net_quantizer 18 opencl
  nms_gather_param 215 synopsys
  nms_param 214 synopsys; 149 rtpose
  noise_param 151 opencl; 207 happynear
  non_max_suppression_param 271 synopsys
  norm_param 206 ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo synopsys
  normalize_param 214 happynear
  not_equal_param 274 synopsys
  one_hot_param 260 synopsys
  op_transform_param 149 openpose
  ordinal_regression_loss_param 230 happynear
  pad_param 224 synopsys
  pairwise_param 221 happynear
  permute_param 202 ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo synopsys;
      224 happynear
  piece_param 244 synopsys
  point_net_param 275 synopsys
  pooling3d_param 266 synopsys; 6662 c3d
  pose_data_param 200 deepcut
  predict_box_param 209 happynear
  prior_box_param 203 ssd nvcaffe intel refinedet mobilenet_ssd mobilenet_yolo
      synopsys
  proposal_param 212 synopsys; 219 happynear; 8266713 pvanet
  proposal_target_param 152 mscnn; 159 cascade
  psroi_pooling_param 148 cascade; 149 microsoft; 153 intel; 220 happynear; 10001 rfcn
  py_param 203 apollo
  pyramid_roi_align_param 222 synopsys
  quantization_param 158 intel; 149 ristretto
  range_param 245 synopsys
  reader_param 153 flownet2 synopsys
  recurrent_param 134 lrcn; 139 lrcn; 140 recurrent; 151 nvcaffe
  reduce_all_param 255 synopsys
  reduce_any_param 256 synopsys
  reduce_l1_param 252 synopsys
  reduce_l2_param 253 synopsys
  reduce_logsumexp_param 254 synopsys
  reduce_max_param 228 synopsys
  reduce_mean_param 231 synopsys
  reduce_min_param 229 synopsys
  reduce_prod_param 230 synopsys
  reduce_sum_param 227 synopsys
  region_loss_param 202 yolo2; 209 intel; 600 mobilenet_yolo
  region_param 148 yolo2
  relu6_param 208 mobilenet_ssd; 211 mobilenet_yolo
  reorg_param 147 yolo2; 149 mobilenet_yolo; 159 intel; 197 synopsys
  resample_param 155 flownet2 synopsys
  reshape_every_iter 157 flownet2 synopsys
  resize_bilinear_param 226 synopsys
  resize_nearest_neighbor_param 210 synopsys
  resize_param 231 happynear
  reverse_param 261 synopsys; 143 ctpn
  reverse_sequence_param 257 synopsys
  rnn_v2_param 272 synopsys
  roi_align_param 247 synopsys
  roi_pooling_param 8266711 frcnn rfcn mnc pvanet ctpn synopsys; 147 microsoft mscnn
      cascade; 150 tsn; 154 intel; 204 happynear; 206 ducha
  roi_warping_param 11870 mnc
  rp 200 apollo
  rrelu_param 203 ducha
  scalar_param 139 recurrent; 140 lrcn
  scale_param 160 tsn
  scale_route_param 154 cascade
  scaled_tanh_param 265 synopsys
  scatter_nd_param 276 synopsys
  seg_accuracy_param 144 pspnet deeplab; 164 synopsys
  seg_data_param 141 tsn
  segmentation_evaluate_param 605 mobilenet_yolo
  selu_dropout_param 233 synopsys
  selu_param 232 synopsys
  sequence_data_param 163 tsn
  shuffle_channel_param 164 shufflenet pvanet; 166 synopsys
  smooth_l1_loss_param 8266712 frcnn rfcn mnc pvanet ctpn synopsys; 148 intel
      microsoft mscnn; 149 cascade
  smoothl1_param 222 happynear
  soft_contrastive_loss_param 216 happynear
  soft_truncation_param 218 happynear
  softmax_with_loss_vec_param 201 deepcut
  source_class 10001 spark
  space_to_batch_nd_param 236 synopsys
  space_to_depth_param 223 synopsys
  sparse_to_dense_param 246 synopsys
  sparsify_param 147 ssl
  spatial_batching_pooling_param 279 synopsys
  spatial_dropout_param 155 intel
  split_param 208 intel
  squeeze_convolution_param 187 synopsys
  squeeze_inner_product_param 188 synopsys
  squeeze_param 241 synopsys
  stack_param 225 synopsys
  strided_slice_param 243 synopsys
  sub_region_param 206 happynear
  symmetric_rectify_param 148 ssl
  tensor2box_param 280 synopsys
  thresholded_relu_param 259 synopsys
  tile_nd_param 239 synopsys
  top_data_type 14 opencl
  top_quantizer 17 opencl
  top_shared_index 97 opencl
  topk_gather_param 213 synopsys
  transpose_param 142 ctpn
  triplet_loss_param 203 happynear; 205 ducha
  trt_param 152 nvcaffe
  truncation_param 225 happynear
  unique_label_param 150 pspnet deeplab; 170 synopsys
  unstack_param 234 synopsys
  upsample_darknet_param 209 synopsys
  upsample_param 137 segnet; 147 segnet; 150 mobilenet_yolo; 177 synopsys
  video_data_param 207 ssd nvcaffe intel refinedet mobilenet_ssd synopsys; 140 tsn;
      6660 c3d; 7777 video
  where4_gathernd_crop_param 221 synopsys
  where4_gathernd_param 219 synopsys
  where4_param 218 synopsys
  wordvec_param 202 apollo
  writer_param 152 flownet2 synopsys
  xlu_param 237 synopsys
  yolo_detection_output_param 601 mobilenet_yolo
  yolo_seg_param 604 mobilenet_yolo
  yolo_v2_loss_param 198 synopsys
  yolo_v3_loss_param 199 synopsys
  yolov3_detection_output_param 602 mobilenet_yolo
  yolov3_param 603 mobilenet_yolo
LossParameter
  class_weighting 4 segnet; 6 synopsys
  label_smoothing 4 nvcaffe; 5 intel
  normalization 5 segnet
  pre_fixed_normalizer 4 rfcn intel microsoft
  weight_by_label_freqs 3 segnet; 5 synopsys
MVNParameter
  add_eps_before_sqrt 4 synopsys
MemoryDataParameter
  dataframe_column_select 10002 spark
  dataframe_format 10004 spark
  dim 5 opencl
  image_encoded 10003 spark
  length 7777 video
  share_in_parallel 10000 spark
  source 10001 spark
  transpose 5 happynear
NetParameter
  auto_insert_gathers 10 dgd
  autotune 82 opencl
  bn_stats_batch_size 11 intel
  compile_net_state 10 intel
  data_type 42 opencl
  default_backward_math 14 nvcaffe
  default_backward_type 12 nvcaffe
  default_conv_algos_override 17 nvcaffe
  default_cudnn_math_override 19 nvcaffe
  default_forward_math 13 nvcaffe
  default_forward_type 11 nvcaffe
  eltwise_mem_sharing 20 nvcaffe
  engine 9 intel
  global_grad_scale 15 nvcaffe
  global_grad_scale_adaptive 16 nvcaffe
  mem_param 200 tsn
  multinode 101 intel
  quantizer 80 opencl
  reduce_buckets 18 nvcaffe
  reduced_memory_inference 81 opencl
  richness 9 dgd
NetState
  quantizer_mode 4 opencl
ParamSpec
  block_group_lasso 7 skimcaffe
  breadth_decay_mult 5 skimcaffe
  fix_lr 5 happynear
  force_mult 6 ssl
  force_regularize 5 ssl
  kernel_shape_decay_mult 6 skimcaffe
  regularization_type 8 skimcaffe
ParameterParameter
  blob_filler 2 happynear
PoolingParameter
  avg_include_pad 13 intel
  axis 14 intel; 16 opencl
  blobs_a_min 14 happynear
  blobs_lr 13 happynear
  ceil_mode 13 cascade; 14 synopsys
  dilation 13 opencl
  input_scale 30 synopsys
  input_zero_point 35 synopsys
  kernel_depth 5 c3d
  kernel_shape 7778 video
  kernel_size_3d 16 intel
  output_scale 31 synopsys
  output_shift_instead_division 21 synopsys
  output_zero_point 36 synopsys
  pad_3d 15 intel
  pad_b 19 synopsys
  pad_l 16 synopsys
  pad_r 17 synopsys
  pad_shape 7777 video
  pad_t 18 synopsys
  pad_type 13 synopsys
  quantize_method 37 synopsys
  round_mode 15 synopsys
  saturate 22 synopsys
  stride_3d 17 intel
  stride_shape 7779 video
  temporal_stride 6 c3d
  torch_pooling 40 nvcaffe
PowerParameter
  quantize_method 5 synopsys
  saturate 4 synopsys
ReLUParameter
  fuse 3 intel
  input_scale 13 synopsys
  input_zero_point 15 synopsys
  maximum 6 synopsys
  minimum 7 synopsys
  output_scale 14 synopsys
  output_zero_point 16 synopsys
  relu6 3 synopsys
  saturate 4 synopsys
RecurrentParameter
  activation_alpha 10 synopsys
  activation_beta 11 synopsys
  activations 12 synopsys
  continue_recur 14 synopsys
  default_initial 13 synopsys
  direction 9 synopsys
  expose_hidden_state 5 lrcn
  linear_before_reset 8 synopsys
  tf_rnn 7 synopsys
ReductionParameter
  k 4 tsn
ReshapeParameter
  pixelshuffler 4 intel synopsys
ScaleParameter
  dis_mode 6 synopsys
  gen_mode 7 synopsys
  max_value 7 happynear
  min_value 6 happynear
SigmoidParameter
  input_scale 3 synopsys
  input_zero_point 5 synopsys
  output_scale 4 synopsys
  output_zero_point 6 synopsys
  saturate 7 synopsys
SoftmaxParameter
  class_weight 4 happynear
  cutting_point 6 happynear
  hard_mining_label 5 happynear
  hard_ratio 3 happynear
  input_scale 3 synopsys
  input_zero_point 5 synopsys
  label_smooth_factor 8 happynear
  margin 9 happynear
  normalize_type 7 happynear
  output_scale 4 synopsys
  output_zero_point 6 synopsys
  saturate 7 synopsys
SolverParameter
  ap_version 42 ssd intel refinedet mobilenet_ssd synopsys; 43 cascade; 53
      mobilenet_yolo; 242 nvcaffe
  block_group_decay 43 skimcaffe
  breadth_decay 41 skimcaffe
  clamp_weights_lower 42 happynear
  clamp_weights_upper 43 happynear
  clip_weights 44 happynear
  data_type 43 opencl
  device 18 opencl
  disabled_update 46 intel
  engine 47 intel
  eval_type 41 ssd intel refinedet mobilenet_ssd synopsys; 42 cascade; 52
      mobilenet_yolo; 241 nvcaffe
  force_decay 42 ssl
  force_decay_type 44 ssl
  force_direction 45 ssl
  force_iter 43 ssl
  force_type 41 ssl
  gan_solver 51 synopsys
  group_id 38 tsn
  iter_size 35 crfrnn deconvnet
  kernel_shape_decay 42 skimcaffe
  larc 49 nvcaffe
  larc_eta 51 nvcaffe
  larc_policy 50 nvcaffe
  larc_turbo 55 nvcaffe
  layer_wise_reduce 45 synopsys
  local_gw_ratio 51 intel
  local_lr_auto 50 intel
  max_momentum 47 nvcaffe
  max_threshold_factor 46 skimcaffe
  max_weight_decay 56 nvcaffe
  measure_threshold 45 skimcaffe
  min_lr 43 nvcaffe; 39 dgd
  momentum_policy 46 nvcaffe
  momentum_power 48 nvcaffe
  multistep_lr 41 deepcut
  per_parameter_reduce 41 nvcaffe
  plateau_winsize 43 ssd refinedet mobilenet_ssd mobilenet_yolo synopsys; 41 pvanet;
      44 intel; 243 nvcaffe
  prune_threshold 44 skimcaffe
  rampup_interval 41 nvcaffe
  rampup_lr 42 nvcaffe
  richness 37 tsn
  show_per_class_result 44 ssd refinedet mobilenet_ssd cascade mobilenet_yolo
      synopsys; 43 intel; 244 nvcaffe
  solver_data_type 44 nvcaffe
  stageiter 51 yolo yolo2 mobilenet_yolo; 151 intel
  stagelr 50 yolo yolo2 mobilenet_yolo; 150 intel
  store_blobs_in_old_format 45 nvcaffe
  test_and_snapshot_last_epochs 54 nvcaffe
  test_offset 52 intel
  warmup_iter 48 intel
  warmup_start_lr 49 intel
  weight_decay_policy 52 nvcaffe
  weight_decay_power 53 nvcaffe
  weights 46 synopsys
  winograd_adjust_threshold 48 skimcaffe
SolverState
  iter_last_event 6 ssd nvcaffe intel refinedet mobilenet_ssd pvanet mobilenet_yolo
      synopsys
  minimum_loss 5 ssd nvcaffe intel refinedet mobilenet_ssd pvanet mobilenet_yolo
      synopsys
TransformationParameter
  allow_upscale 20 nvcaffe
  apply_probability 18 augment; 29 mobilenet_yolo
  aspect_max 15 happynear
  aspect_min 14 happynear
  aug_way 33 rtpose
  bbox_norm_factor 20 rtpose
  bgr2rgb 18 intel
  caffe_yolo 21 synopsys
  center_crop 10 happynear
  center_perterb_max 25 rtpose
  clahe_clip_limit 29 rtpose
  clahe_tile_size 28 rtpose
  contrast_brightness_adjustment 11 augment; 19 mobilenet_yolo
  coverage 11 rtpose
  crop_h 11 ssd intel refinedet mobilenet_ssd mobilenet_yolo ducha synopsys; 8
      happynear; 211 nvcaffe
  crop_height 10 pspnet deeplab; 20 synopsys; 8 dgd
  crop_size_x 15 rtpose
  crop_size_y 16 rtpose
  crop_w 12 ssd intel refinedet mobilenet_ssd mobilenet_yolo ducha synopsys; 9
      happynear; 212 nvcaffe
  crop_width 9 pspnet deeplab dgd; 19 synopsys
  cvt_bgr2rgb 31 mobilenet_yolo
  debug_params 19 augment; 30 mobilenet_yolo
  display 22 nvcaffe
  distort_param 13 ssd intel refinedet mobilenet_ssd mobilenet_yolo synopsys; 213
      nvcaffe
  do_clahe 30 rtpose
  emit_constraint 10 ssd intel refinedet mobilenet_ssd mobilenet_yolo synopsys; 210
      nvcaffe
  enable_classf_aug 15 mobilenet_yolo
  erase_ratio 11 happynear
  expand_param 14 ssd intel refinedet mobilenet_ssd mobilenet_yolo synopsys; 214
      nvcaffe
  fix_crop 10 tsn
  flip_prob 12 rtpose
  flow 6 lrcn; 17 intel
  forward_packing 21 nvcaffe
  gray 34 rtpose
  horizontal_stretch_lower 16 nvcaffe
  horizontal_stretch_upper 17 nvcaffe
  img_header 21 rtpose
  img_rand_resize_lower 10 nvcaffe
  img_rand_resize_upper 11 nvcaffe
  interpolation_algo_down 18 nvcaffe
  interpolation_algo_up 19 nvcaffe
  is_flow 14 tsn
  max_brightness_shift 16 augment; 23 mobilenet_yolo
  max_color_shift 20 augment; 25 mobilenet_yolo
  max_contrast 15 augment; 22 mobilenet_yolo
  max_cvg_len 8 rtpose
  max_distort 13 tsn
  max_rotate_degree 13 rtpose
  max_rotation_angle 10 augment; 18 mobilenet_yolo
  max_scaling_factor 9 augment; 17 mobilenet_yolo
  max_smooth 17 augment; 24 mobilenet_yolo
  min_contrast 14 augment; 21 mobilenet_yolo
  min_cvg_len 9 rtpose
  min_scaling_factor 8 augment; 16 mobilenet_yolo
  min_side 22 augment; 28 mobilenet_yolo
  min_side_max 21 augment; 27 mobilenet_yolo
  min_side_min 13 augment; 26 mobilenet_yolo
  more_fix_crop 15 tsn
  multi_scale 11 tsn
  multi_scale_levels 10 dgd
  noise_param 9 ssd intel refinedet mobilenet_ssd mobilenet_yolo ducha synopsys; 209
      nvcaffe
  np_in_lmdb 35 rtpose
  num_labels 23 nvcaffe
  num_parts 31 rtpose
  num_total_augs 32 rtpose
  opaque_coverage 10 rtpose
  original_image 20 tsn
  pad 19 intel
  rand_resize_ratio_lower 12 nvcaffe
  rand_resize_ratio_upper 13 nvcaffe
  random_90_deg_rot 14 ducha
  random_aspect_ratio_param 16 intel
  random_crop_on_test 10 ducha
  random_resize_param 15 intel
  random_seed 9 nvcaffe
  resize_param 8 ssd intel refinedet mobilenet_ssd mobilenet_yolo ducha synopsys; 208
      nvcaffe
  scale_cvg 23 rtpose
  scale_factors 8 pspnet deeplab; 18 synopsys
  scale_max 13 happynear; 19 rtpose
  scale_min 12 happynear; 18 rtpose
  scale_prob 17 rtpose
  scale_ratios 12 tsn
  sigma 26 rtpose
  sigma_center 27 rtpose
  smooth_filtering 12 augment; 20 mobilenet_yolo
  stride 16 tsn; 22 rtpose
  target_dist 24 rtpose
  transform_body_joint 38 rtpose
  upper_height 18 tsn
  upper_size 17 tsn
  upper_width 19 tsn
  use_gpu_transform 8 nvcaffe
  vertical_mirror 13 ducha
  vertical_stretch_lower 14 nvcaffe
  vertical_stretch_upper 15 nvcaffe
  visualize 14 rtpose
V1LayerParameter
  adaptive_bias_channel_param 53 deeplab
  affinity_param 43 opencl
  bias_channel_param 50 deeplab
  binary_accuracy_param 48 deconvnet
  bn_param 43 happynear; 45 deconvnet
  censor_label_param 52 deeplab
  channel_aggregator_param 54 deeplab
  dense_crf_param 48 deeplab
  detection_loss_param 200 yolo
  dominant_channel_param 49 deeplab
  down_sampling_param 23 c3d
  eltwise_accuracy_param 43 deconvnet
  eltwise_affine_param 49 happynear
  euclidean_loss_param 57 deeplab
  eval_detection_param 201 yolo
  gain_channel_param 58 deeplab
  histogram_param 56 deeplab
  ignore_overlay_param 55 deeplab
  insanity_param 46 happynear
  interp_param 43 deeplab
  local_param 44 happynear
  mat_read_param 47 deeplab
  mat_write_param 46 deeplab
  multi_stage_meanfield_param 44 crfrnn
  noise_param 51 happynear
  onehot_param 59 deeplab
  padding_param 45 deeplab
  prelu_param 45 happynear
  red_accuracy_param 47 deconvnet
  red_softmax_loss_param 46 deconvnet
  relu6_param 61 mobilenet_yolo
  roi_pooling_param 48 happynear
  seg_accuracy_param 42 deeplab
  select_seg_binary_param 50 deconvnet
  softmaxloss_param 44 deeplab
  strict_dim 1003 deeplab
  sub_region_param 50 happynear
  triplet_loss_param 47 happynear
  unique_label_param 51 deeplab
  unpooling_param 44 deconvnet
  window_cls_data_param 49 deconvnet
  yolo_v2_loss_param 300 synopsys
  yolo_v3_loss_param 301 synopsys
"""

# As above, for the values of enums.
_ENUMS = """
ConvolutionParameter.Engine
  FFT 5 opencl
  INTEL_SPATIAL 4 opencl
  LIBDNN 3 opencl
  MKL2017 3 intel
  MKLDNN 4 intel
EltwiseParameter.EltwiseOp
  DIV 3 synopsys
  MIN 4 synopsys
  SORT 3 happynear
  STOCHASTIC_SUM 3 tsn
LRNParameter.Engine
  MKL2017 3 intel
  MKLDNN 4 intel
LossParameter.NormalizationMode
  NONE 4 rfcn intel microsoft
  PRE_FIXED 3 rfcn intel microsoft
PoolingParameter.Engine
  LIBDNN 3 opencl
  MKL2017 3 intel
  MKLDNN 4 intel
PoolingParameter.PoolMethod
  AVE_EXC_PAD 3 synopsys
  AVE_TF 3 synopsys
  DEF 3 happynear
  DEF_ALL 4 happynear
  DEF_ALL2 5 happynear
  DEF_ALL3 6 happynear
  DEF_ALL4 7 happynear
  LOWRES 8 happynear
ReLUParameter.Engine
  MKL2017 3 intel
  MKLDNN 4 intel
ReductionParameter.ReductionOp
  TOPK 5 tsn
SPPParameter.PoolMethod
  AVE_EXC_PAD 3 synopsys
  AVE_TF 3 synopsys
SolverParameter.SolverType
  SAG 6 nvcaffe
V0LayerParameter.PoolMethod
  AVE_EXC_PAD 3 synopsys
  AVE_TF 3 synopsys
V1LayerParameter.LayerType
  ADAPTIVE_BIAS_CHANNEL 50 deeplab
  BATCH_NORM 47 happynear
  BIAS_CHANNEL 47 deeplab
  BIN_ACCURACY 49 deconvnet
  BN 42 happynear; 43 deconvnet
  CENSOR_LABEL 49 deeplab
  CHANNEL_AGGREGATOR 51 deeplab
  CONVOLUTION3D 30 c3d
  CROP 40 crfrnn hed deconvnet
  DECONVOLUTION3D 34 c3d
  DENSE_CRF 45 deeplab
  DOMINANT_CHANNEL 46 deeplab
  DOWN_SAMPLING 40 c3d
  DROPOUT_CHANNEL 53 deconvnet
  ELTWISE_ACCURACY 41 deconvnet
  ELTWISE_AFFINE 48 happynear
  ELTWISE_PRODUCT 25 c3d
  GAIN_CHANNEL 55 deeplab
  HISTOGRAM 53 deeplab
  IGNORE_OVERLAY 52 deeplab
  IMAGE_SEG_DATA 39 deeplab; 46 deconvnet
  INSANITY 44 happynear
  INTERP 41 deeplab
  LOCAL 41 happynear
  MAT_READ 44 deeplab
  MAT_WRITE 43 deeplab
  MULTI_STAGE_MEANFIELD 42 crfrnn
  NORMALIZE 43 happynear
  ONEHOT 56 deeplab
  PADDING 42 deeplab
  POOLING3D 31 c3d
  RED_ACCURACY 45 deconvnet
  RED_SOFTMAX_LOSS 44 deconvnet
  RELATIVE_ERROR 54 deeplab
  RELU6 61 mobilenet_yolo
  ROIPOOLING 46 happynear
  SEG_ACCURACY 40 deeplab
  SELECT_SEG_BINARY 52 deconvnet
  SIMPLE_FAST_MEANFIELD 41 crfrnn
  TRIPLET_LOSS 45 happynear
  UNIQUE_LABEL 48 deeplab
  UNPOOLING 42 deconvnet
  VIDEO_DATA 33 c3d
  VIDEO_SEGMENTATION_DATA 35 c3d
  VIDEO_WITH_VOXEL_TRUTH_DATA 38 c3d
  VOLUME_DATA 32 c3d
  VOXEL_CUSTOM_LOSS 39 c3d
  VOXEL_SOFTMAX 36 c3d
  VOXEL_SOFTMAX_LOSS 37 c3d
  WINDOW_CLS_DATA 50 deconvnet
  WINDOW_INST_SEG_DATA 48 deconvnet
  WINDOW_SEG_BINARY 51 deconvnet
  WINDOW_SEG_DATA 47 deconvnet
"""

# Fields that hold one value in Caffe and several in a fork.
_LISTS = {("SolverParameter", "device_id"): ("tsn", "dgd")}

_Numbers = dict[int, tuple[str, ...]]
"""Number -> keys of FORKS."""


def layer_type_forks(type_: str) -> tuple[str, ...]:
    """Returns the names of the forks that have a layer type, the best known first.

    Args:
      type_: the type string, as in `layer { type: "ROIPooling" }`; case counts.

    Returns:
      Names as in FORKS; empty for Caffe's own types and for types of no known fork.
    """
    return _names(_TYPE_TABLE.get(type_, ()))


def filler_type_forks(type_: str) -> tuple[str, ...]:
    """Returns the names of the forks that have a filler type, the best known first.

    Args:
      type_: the type string, as in `weight_filler { type: "gabor" }`; case counts.

    Returns:
      As `layer_type_forks`.
    """
    return _names(_FILLER_TABLE.get(type_, ()))


def field_forks(message: Descriptor, field: str) -> tuple[str, ...]:
    """Returns the names of the forks that have a field which a message lacks.

    Args:
      message: of the schema, such as that of LayerParameter.
      field: the field's name in a prototxt.

    Returns:
      As `layer_type_forks`.
    """
    if field in message.fields_by_name:
        return ()
    return _all_names(_FIELD_TABLE.get(_name(message), {}).get(field, {}))


def list_forks(message: Descriptor, field: str) -> tuple[str, ...]:
    """Returns the names of the forks in which a field holds several values, not one.

    Args:
      message: of the schema.
      field: of the message, not repeated.

    Returns:
      As `layer_type_forks`.
    """
    return _names(_LISTS.get((_name(message), field), ()))


def number_forks(
    message: Descriptor, number: int
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Returns the fields that forks have under a number which a message lacks.

    Args:
      message: of the schema.
      number: as in a binary file.

    Returns:
      Pairs of a field's name and the forks' names. Forks use some numbers for
      different fields; then there are several pairs.
    """
    found = []
    for field, numbers in _FIELD_TABLE.get(_name(message), {}).items():
        if number in numbers:
            found.append((field, numbers[number]))
    found.sort(key=lambda pair: min(map(_ORDER.__getitem__, pair[1])))
    return tuple((field, _names(keys)) for field, keys in found)


def value_forks(enum: EnumDescriptor, value: str | int) -> tuple[str, ...]:
    """Returns the names of the forks that have a value which an enum lacks.

    Args:
      enum: of the schema.
      value: its name, or its number as a binary file has it.

    Returns:
      As `layer_type_forks`.
    """
    table = _ENUM_TABLE.get(_name(enum), {})
    if isinstance(value, str):
        return () if value in enum.values_by_name else _all_names(table.get(value, {}))
    if value in enum.values_by_number:
        return ()
    keys = {key for n in table.values() for key in n.get(value, ())}
    return _names(sorted(keys, key=_ORDER.__getitem__))


def tell_forks(forks: Sequence[str]) -> str:
    """Returns "it comes from A and B, forks of Caffe", a clause for messages.

    Args:
      forks: names of one or more forks, of which the first four are told.
    """
    shown, rest = list(forks[:_SHOWN]), len(forks) - _SHOWN
    if rest > 0:
        return f"it comes from {', '.join(shown)} and {rest} more forks of Caffe"
    head, last = ", ".join(shown[:-1]), shown[-1]
    if not head:
        return f"it comes from {last}, a fork of Caffe"
    return f"it comes from {head} and {last}, forks of Caffe"


def type_instead(type_: str) -> str:
    """Returns what a net may say in place of a fork's layer type, or ""."""
    return _TYPES_INSTEAD.get(type_, "")


def field_instead(message: Descriptor, field: str) -> str:
    """Returns what a net may say in place of a fork's field, or ""."""
    return _FIELDS_INSTEAD.get((_name(message), field), "")


def _name(descriptor: Descriptor | EnumDescriptor) -> str:
    return descriptor.full_name.partition(".")[2]


def _names(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(FORKS[key] for key in keys)


def _all_names(numbers: _Numbers) -> tuple[str, ...]:
    keys = {key for keys in numbers.values() for key in keys}
    return _names(sorted(keys, key=_ORDER.__getitem__))


def _lines(table: str) -> Iterator[str]:
    """Yields the table's lines, each with what continues it."""
    whole = ""
    for line in table.strip("\n").split("\n"):
        if line.startswith("    "):
            whole += " " + line.strip()
        else:
            if whole:
                yield whole
            whole = line
    yield whole


def _read_types(table: str) -> dict[str, tuple[str, ...]]:
    lines = (line.split() for line in _lines(table))
    return {type_: tuple(keys) for type_, *keys in lines}


def _read_numbers(table: str) -> dict[str, dict[str, _Numbers]]:
    read: dict[str, dict[str, _Numbers]] = {}
    message: dict[str, _Numbers] = {}
    for line in _lines(table):
        if not line.startswith(" "):
            message = read.setdefault(line, {})
            continue
        name, _, entries = line.strip().partition(" ")
        message[name] = {
            int(number): tuple(keys)
            for number, *keys in (entry.split() for entry in entries.split(";"))
        }
    return read


_ORDER = {key: index for index, key in enumerate(FORKS)}
_TYPE_TABLE = _read_types(_TYPES)
_FILLER_TABLE = _read_types(_FILLERS)
_FIELD_TABLE = _read_numbers(_FIELDS)
_ENUM_TABLE = _read_numbers(_ENUMS)
