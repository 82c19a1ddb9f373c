"""The planner's parts: the question, candidates and what they come to, the search, and what to make of its result.

Layers, downward: `mopdsim.plan.plan` reads `finalists` with `reasons`, `information`, `sensitivity`, `tipping`,
`portfolio`; these read `explore`; it reads `evaluation` (`rounds` and `chains` of a `stock` of pieces), that
`candidate` and `question`. `words` is the home of every plain phrase. Leaves out: the command
(`mopdsim.cli.plan_command`), the app.
"""
