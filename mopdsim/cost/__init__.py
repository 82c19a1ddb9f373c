"""What a stage costs: tokens, FLOPs, bytes, memory and seconds. Pure functions of numpy arrays.

counting   FLOPs of training, scoring and teacher passes, conventions stated
memory     bytes per GPU and the smallest layout that fits
lengths    response lengths, their longest of many, their drift over a run
decode     one step of a serving engine; generation: a whole batch with its shrinking tail
training   one optimizer step; rlstep: phases of a reinforcement-learning or distillation step
teachers   how a distillation step's teachers are served and what they hand over
constants  what was fitted, with spread, grade and provenance (fitted by `mopdsim.fit.cost`, never here)
"""
