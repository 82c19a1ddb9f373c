"""The studies, one file each: a design, an analysis, a prediction. `studies.framework.registry` names them."""
