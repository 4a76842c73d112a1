"""What to do after a training command ended:  python -m distsent.next_action RUN [RUN ...] --code N

Prints one line, `ACTION CODE CAUSE MESSAGE`, for a shell's `read -r action code cause message`:

    done      the run is finished
    retry     it failed, and the same command may get further: retry a bounded number of times
    requeue   a signal stopped it, and it has saved: the same command resumes; this is not a failure
    give_up   the job is wrong or training became non-finite: the same command would fail again

CODE is the run's own exit code, which a launcher may have hidden. CAUSE is one word: finished,
stopped, no_progress, usage_error, non_finite, crashed_at_start, worker_died, worker_lost or failed.
A job with several seeds has several run folders: name all, in the order of the seeds.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from distsent import cli
from distsent.errors import FINISHED
from distsent.exit_policy import decide
from distsent.runtime.run_status import ATTEMPT, status_of


def main(arguments: list[str]) -> int:
    parser = cli.Parser("next_action", __doc__)
    add, attempt = parser.add_argument, os.environ.get(ATTEMPT)
    add("runs", nargs="*", metavar="RUN", help="run folders")
    add("--code", type=int, required=True, metavar="N", help="exit code of the command")
    about = f"value of {ATTEMPT} for the command; a status of an earlier start is ignored"
    add("--attempt", metavar="NAME", default=attempt, help=about)
    add("--stop-requested", action="store_true", help="the command received a stop request")
    about = "because of a time limit: a stop that saved nothing counts as a failure"
    add("--out-of-time", action="store_true", help=about)
    add("--json", action="store_true", help="print the decision as JSON")
    options = parser.parse_args(arguments)
    runs = [status_of(Path(run), options.attempt) for run in options.runs]
    reasons = {"stop_requested": options.stop_requested, "out_of_time": options.out_of_time}
    decision = decide(options.code, *runs, **reasons)
    fields = asdict(decision)
    fields["message"] = " ".join(decision.message.split())  # one line
    line = " ".join(str(value) for value in fields.values())
    print(json.dumps(fields) if options.json else line)
    return FINISHED


if __name__ == "__main__":
    cli.run(main)
