"""The recipe language and the catalogue: stages, amounts, files, published systems. Leaves out: what a recipe costs
or yields."""
