"""The what-if app's pages, charts and state. They draw and call; every number comes from the functions behind the
commands. Nothing else imports this package.
"""
