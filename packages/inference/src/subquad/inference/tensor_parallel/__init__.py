"""One network over several processes: this one leads, the others hold their part of every layer and follow."""

from subquad.inference.tensor_parallel.checkpoint import load_shared_checkpoint as load_shared_checkpoint
from subquad.inference.tensor_parallel.leading import LeadingNetwork as LeadingNetwork
from subquad.inference.tensor_parallel.workers import lead as lead
