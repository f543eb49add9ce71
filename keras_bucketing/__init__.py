"""Length-bucketed, padded and masked batches of variable-length sequences for Keras."""

import keras_bucketing.command_log  # noqa: F401 - before TensorFlow is imported
from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.callbacks.backup_and_restore import BackupAndRestoreSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.checking.check_padding import PaddingCheck, check_padding
from keras_bucketing.data.rows import StoredSequences
from keras_bucketing.layers.keep_mask import KeepMask
from keras_bucketing.layers.sequence_masking import SequenceMasking
from keras_bucketing.models.masked_lstm_classifier import MaskedLSTMClassifier
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.monitoring.monitored_dataset import MonitoredDataset
from keras_bucketing.padding.report import (
    PaddingRecommendation,
    PaddingReport,
    PaddingStrategy,
    RecommendedCall,
    padding_report,
)
from keras_bucketing.padding.stats import BucketPaddingStats, LeafPaddingStats, PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.planning.boundaries import optimal_bucket_boundaries
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.planning.outliers import OutlierWarning
from keras_bucketing.streams.saved_sequences import load_sequences, save_sequences
from keras_bucketing.tuning.choose import EpochForecast, StepCosts
from keras_bucketing.tuning.measure import MeasuredStep
from keras_bucketing.tuning.tune_batch_sizes import TunedBatchSizes, tune_batch_sizes

__version__ = "0.2.0"

__all__ = [
    "BackupAndRestoreSequence",
    "BucketPaddingStats",
    "BucketedSequence",
    "BucketedStream",
    "EpochForecast",
    "EpochPlan",
    "KeepMask",
    "LeafPaddingStats",
    "MaskedLSTMClassifier",
    "MeasuredStep",
    "MonitoredDataset",
    "OutlierWarning",
    "PaddingCheck",
    "PaddingRecommendation",
    "PaddingReport",
    "PaddingStats",
    "PaddingStatsCallback",
    "PaddingStrategy",
    "PassPosition",
    "RecommendedCall",
    "SequenceMasking",
    "StepCosts",
    "StoredSequences",
    "TunedBatchSizes",
    "check_padding",
    "load_sequences",
    "monitor_padding",
    "optimal_bucket_boundaries",
    "padding_report",
    "save_sequences",
    "tune_batch_sizes",
]
