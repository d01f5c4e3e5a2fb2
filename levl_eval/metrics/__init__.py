"""Metrics as pure functions on numpy and strings; fractions in [0, 1]. Nothing here knows torch or files."""

from levl_eval.metrics.gqa import gqa_scores
from levl_eval.metrics.pope import pope_answer, pope_scores
from levl_eval.metrics.segmentation import confusion_matrix, mean_iou
from levl_eval.metrics.vqa import normalize_vqa_answer, vqa_accuracy

__all__ = ["confusion_matrix", "gqa_scores", "mean_iou", "normalize_vqa_answer", "pope_answer", "pope_scores", "vqa_accuracy"]
