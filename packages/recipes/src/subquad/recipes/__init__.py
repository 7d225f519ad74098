"""Training recipes: genomes in, a trained StripedHyena 2 checkpoint and its report out.

The parts are imported by name, so that a command line starts without torch: `subquad.recipes.data`,
`subquad.recipes.baselines`, `subquad.recipes.training`, `subquad.recipes.configs`.
"""
