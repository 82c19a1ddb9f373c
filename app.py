"""The what-if app: `streamlit run app.py`, or `mopd app`."""

from mopdsim.app.shell import main

main()
