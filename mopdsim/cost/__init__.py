"""What a stage costs: tokens, FLOPs, bytes, memory and seconds. Pure functions of numpy arrays.

memory     bytes per GPU and the smallest layout that fits
lengths    response lengths and their longest of many
decode     one step of a serving engine; generation: a whole batch with its shrinking tail
training   one optimizer step; rlstep: phases of a reinforcement-learning or distillation step
stacks     software: how much slower than the time model, how sure, which mechanisms
constants  what was fitted, with spread, grade and provenance (fitted by `mopdsim.fit.cost`, never here)
"""
