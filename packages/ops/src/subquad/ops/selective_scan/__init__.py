"""The selective scan of Mamba 1 and 2."""

from subquad.ops.selective_scan.selective_scan import selective_scan as selective_scan
from subquad.ops.selective_scan.selective_scan import selective_scan_with_state as selective_scan_with_state
