"""The result of a job: its identity, its record, its samples, and the versions of their form."""

from levl_eval.core.hashing import canonical, digest
from levl_eval.metrics.estimate import Estimate
from levl_eval.records.identity import DataIdentity, JobIdentity, cache_key, identity_of
from levl_eval.records.record import Record, fill_identity, read_record, read_records, read_samples, record_key, write_record
from levl_eval.records.samples import Sample, SamplesFile
from levl_eval.records.schema import SCHEMA

__all__ = [
    "SCHEMA", "DataIdentity", "Estimate", "JobIdentity", "Record", "Sample", "SamplesFile", "cache_key", "canonical", "digest",
    "fill_identity", "identity_of", "read_record", "read_records", "read_samples", "record_key", "write_record",
]  # fmt: skip
