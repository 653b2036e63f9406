"""`volley run`, except that its learner writes nothing down.

python bench/measuring/forgetful_run.py run CONFIG --run-folder FOLDER
"""

import sys
from pathlib import Path

from volley.launcher import run
from volley.launcher.__main__ import main

if __name__ == "__main__":
    run.LEARNER = (sys.executable, str(Path(__file__).with_name("forgetful_learner.py")))
    main()
