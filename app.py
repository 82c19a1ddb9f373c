"""The what-if app: `streamlit run app.py`, or `mopd app`."""

from mopdsim.ui.shell import main

main()
