"""The gate of a two-branch MLP."""

from subquad.ops.gated_product.gated_product import gated_product as gated_product
