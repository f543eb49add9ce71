"""Length-bucketed, padded and masked batches of variable-length sequences for Keras."""

from keras_bucketing.backup_and_restore_sequence import BackupAndRestoreSequence
from keras_bucketing.boundaries import optimal_bucket_boundaries
from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.masked_lstm_classifier import MaskedLSTMClassifier
from keras_bucketing.monitor_padding import monitor_padding
from keras_bucketing.padding_report import padding_report
from keras_bucketing.padding_stats import PaddingStats
from keras_bucketing.padding_stats_callback import PaddingStatsCallback
from keras_bucketing.sequence_masking import SequenceMasking

__version__ = "0.1.0"

__all__ = [
    "BackupAndRestoreSequence",
    "BucketedSequence",
    "MaskedLSTMClassifier",
    "PaddingStats",
    "PaddingStatsCallback",
    "SequenceMasking",
    "monitor_padding",
    "optimal_bucket_boundaries",
    "padding_report",
]
