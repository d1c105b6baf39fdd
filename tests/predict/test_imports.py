import subprocess
import sys


def test_fit_and_predict_import_no_engine() -> None:
    code = (
        "import sys, dooly.predict, dooly.fit; print([m for m in ('torch', 'vllm', 'statsmodels') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
