"""Rows rounded to E4M3 where they are made: as they are, behind a norm, or as the product of two branches."""

from subquad.ops.rounded_rows.rounded_rows import rounded_norm as rounded_norm
from subquad.ops.rounded_rows.rounded_rows import rounded_product as rounded_product
from subquad.ops.rounded_rows.rounded_rows import rounded_rows as rounded_rows
