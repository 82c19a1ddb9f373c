"""The what-if app: `mopd app`, `python app.py`, or `streamlit run app.py`.

Python begins a server, and Streamlit draws a page with this file for each visitor.
"""

import sys
import time
from importlib import import_module
from threading import Thread

from streamlit import runtime
from streamlit.web import cli


def load() -> None:
    """Load the first page once the server is there, while a browser loads its own part."""
    while not runtime.exists():
        time.sleep(0.02)
    import_module("mopdsim.app.pages.what_if")


if runtime.exists():
    from mopdsim.app.shell import main

    main()
else:
    Thread(target=load, daemon=True).start()
    cli.main(["run", __file__, *sys.argv[1:]], prog_name="streamlit")
