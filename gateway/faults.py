"""What backends do wrong, by name. Each fault is in the row of its attempt, where staff filter by it, and counted.

What comes of it, for streams and JSON alike (`flint_backend_faults_total` counts all but the first line):

    blank lines, comments, pings, CRLF, a byte order mark,    read as if they were not there; UTF-8 and JSON may be cut
    no space, no empty lines, no [DONE]                       anywhere; what follows [DONE] is not read

    nothing, html, not_json, wrong_shape, too_large,          before the first event: another backend is asked, and a
    no_finish, error, given_up                                call that none serves is free (503). Later: an error
                                                              frame, and what was produced is paid
    too_long                                                  likewise, after GATEWAY_LONGEST_CALL_SECONDS
    endless                                                   cut off: finish_reason `length`, a whole answer, and no
                                                              more is paid than was asked for. After its finish: the
                                                              answer is whole, and left after GOODBYE_SECONDS

    usage_missing, usage_negative, usage_absurd,              the answer is whole; tokens are our estimate, and the
    usage_malformed, usage_short                              record says `estimated`
    usage_fell                                                the earlier count holds, if no text came after it
    usage_zero                                                believed: zero is charged
    usage that comes more than once                           no fault: the last one counts

A charge is never more than the hold, whatever a backend counts; one that was cut down to it is flagged `clamped`.
"""

from django.db.models import TextChoices


class Fault(TextChoices):
    NOTHING = "nothing", "200 and nothing"
    HTML = "html", "a web page"
    NOT_JSON = "not_json", "not JSON"
    WRONG_SHAPE = "wrong_shape", "JSON, but not what was asked for"
    TOO_LARGE = "too_large", "an event or an answer that does not end"
    NO_FINISH = "no_finish", "ended without a finish"
    ERROR = "error", "an error in place of an answer"
    GIVEN_UP = "given_up", "given up by the model server"
    TOO_LONG = "too_long", "still writing when the longest call ended"
    ENDLESS = "endless", "more than was asked for"
    USAGE_MISSING = "usage_missing", "no usage that counts all"
    USAGE_NEGATIVE = "usage_negative", "a negative usage"
    USAGE_ABSURD = "usage_absurd", "a usage beyond the model's context"
    USAGE_MALFORMED = "usage_malformed", "a usage without two whole numbers"
    USAGE_SHORT = "usage_short", "a usage of fewer tokens than came"
    USAGE_FELL = "usage_fell", "a usage below an earlier one"
    USAGE_ZERO = "usage_zero", "a usage of zero"
