"""The skill suite: tiny worlds whose starts cannot do the tasks greedily, the gate that says so, and studies on
them."""
