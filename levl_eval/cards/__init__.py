"""Cards: what is measured, on what, and how, as data. One vocabulary, read by every command, by plans and by reports.

The cards of engines live here and not beside their engines: `list`, `show`, plans and reports read them without importing an engine, and
with it torch.
"""

from levl_eval.cards.loading import *  # noqa: F403
from levl_eval.cards.loading import __all__ as __all__
