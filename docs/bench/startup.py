"""Time a cold start: from the start of a process to the first byte of text.

    python docs/bench/startup.py -m TARGET -d DRAFT [options of specgen run]

Two processes run one after the other; the first may find the files in the page cache, or not.
"""

import subprocess
import sys
import time

RUNS = 2
COLD = ["-n", "1", "--temp", "0", "--offline", "--keep-alive", "off", "--", "Once upon a time"]


def seconds_to_first_byte(command: list[str]) -> float:
    """Seconds from the start of `command` to its first byte on stdout."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return seconds


def main() -> None:
    """Print the seconds of each start."""
    for run in range(RUNS):
        seconds = seconds_to_first_byte([sys.executable, "-m", "specgen", "run", *sys.argv[1:], *COLD])
        print(f"cold start {run + 1}: {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
