"""dooly inside Vidur: predictor, device and model registered from outside, then Vidur's own main with its own flags.

python -m dooly.adapters.vidur STEPS.json [flags of Vidur]
"""
