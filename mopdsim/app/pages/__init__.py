"""The pages of the app, one function `page` each, and the parts that only one page needs."""
