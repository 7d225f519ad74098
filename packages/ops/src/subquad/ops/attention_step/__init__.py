"""One decode step of rotary attention over keys and values that lie in pages."""

from subquad.ops.attention_step.attention_step import attention_step as attention_step
