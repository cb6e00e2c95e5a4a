"""Which requests the audit trail tells of: one table, looked at when a request was answered.

By the names of the functions that answer; a test holds them against the application's routes.
"""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from db import queries
from worker.audit import Audit
from worker.audit_message import Message, Participant, accessed, exported, queried, signed_in
from worker.web.access import MACHINE, Visitor
from worker.web.context import Web

ACCESS = frozenset(
    {
        "study_page",
        "get_study",
        "list_instances",
        "get_timeline",
        "list_deliveries",
        "list_feedback",
        "get_instance",
        "get_image",
        "get_saliency",
    }
)
CHANGE = frozenset({"give_feedback", "reprocess", "retry"})
EXPORT = frozenset({"get_report"})
QUERY = frozenset({"worklist", "find", "list_studies", "search_studies", "list_failures"})
# What asks anew every few seconds for a page that was audited, and what names no study.
NOT_AUDITED = frozenset(
    {
        "worklist_part",
        "result_part",
        "images_part",
        "report_part",
        "current_part",
        "healthz",
        "readyz",
        "get_status",
        "system_page",
        "try_page",
        "upload",
        "sign_in_form",
        "sign_in",
        "sign_out",
        "go_to_provider",
        "come_back",
        "no_icon",
        "api_page",
        "openapi",
    }
)
_OK = range(200, 400)


def person(request: Request, name: str) -> Participant:
    address = request.client.host if request.client else ""
    return Participant(user_id=name, is_requestor=True, address=address)


def report(web: Web, scope: Scope, visitor: Visitor | None, status: int) -> None:
    """Tell the audit trail of an answered request, where it is one to be told of."""
    audit, request = web.services.audit, Request(scope)
    if not audit.is_on:
        return
    if status == 401:  # noqa: PLR2004 - Unauthorized
        who = person(request, MACHINE)
        audit.report(signed_in(audit.ae_title, who, failed=True), once=who.address)
        return
    what = getattr(scope.get("endpoint"), "__name__", "")
    if visitor is None or status not in _OK:
        return
    who = person(request, visitor.name)
    if what in QUERY:
        criteria = ", ".join(sorted(set(request.query_params)))
        message = queried(audit.ae_title, who, what, criteria)
        audit.report(message, once=(who, what, criteria))
    elif make := _MESSAGES.get(what):
        _report_study(web, audit, who, what, make, scope["path_params"])


def _report_study(
    web: Web,
    audit: Audit,
    who: Participant,
    what: str,
    make: Callable[..., Message],
    path: dict[str, Any],
) -> None:
    uids = tuple(path.values())
    kind = "look" if what in ACCESS else what
    if what in ACCESS | EXPORT and not audit.is_new((who, kind, uids)):
        return
    with web.database.read() as tx:
        study = path.get("study_instance_uid")
        if study is None:
            instance = queries.find_instance(tx, path["sop_instance_uid"]) or {}
            study = instance.get("study_instance_uid")
        if study is None:
            return
        if study != uids[0] and not audit.is_new((who, kind, (study,))):
            return
        patient_id = queries.patient_id_of(tx, study) if audit.names_patients else None
    audit.report(make(who, study, patient_id=patient_id or ""))


def _changed(user: Participant, study_instance_uid: str, *, patient_id: str) -> Message:
    return accessed(user, study_instance_uid, patient_id=patient_id, action="U")


_MESSAGES: dict[str, Callable[..., Message]] = {
    **dict.fromkeys(ACCESS, accessed),
    **dict.fromkeys(CHANGE, _changed),
    **dict.fromkeys(EXPORT, exported),
}
