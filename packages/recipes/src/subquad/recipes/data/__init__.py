"""Genomes as training data: FASTA in, split without leakage, windows of token ids out."""

from subquad.recipes.data.fasta import IUPAC_DNA as IUPAC_DNA
from subquad.recipes.data.fasta import Record as Record
from subquad.recipes.data.fasta import iterate_fasta as iterate_fasta
from subquad.recipes.data.fasta import read_fasta as read_fasta
from subquad.recipes.data.fasta import reverse_complement as reverse_complement
from subquad.recipes.data.split import Span as Span
from subquad.recipes.data.split import Split as Split
from subquad.recipes.data.split import split_documents as split_documents
from subquad.recipes.data.windows import ConsumedSampler as ConsumedSampler
from subquad.recipes.data.windows import EvaluationWindow as EvaluationWindow
from subquad.recipes.data.windows import EvaluationWindows as EvaluationWindows
from subquad.recipes.data.windows import TrainingWindows as TrainingWindows
