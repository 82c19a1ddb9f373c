"""Which teacher made a student say this: evidence in seconds, proof by distilling again without a teacher."""
