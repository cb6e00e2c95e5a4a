"""The views that people query: public, with stable columns, the same in both databases.

docs/QUERIES.md explains every column and holds the queries that people need most.
"""

import re

STUDY_RESULTS = """
CREATE VIEW study_results AS
SELECT study_instance_uid, accession_number, patient_id, issuer_of_patient_id, study_date,
       age_years, intended_use, probability, band, model_name, model_version, state,
       image_count, analysed_count, received_at, reported_at, delivered_at,
       sr_sop_instance_uid, revision, error, retracted_at,
       CASE WHEN is_upload THEN 'upload' ELSE 'pacs' END AS origin
FROM studies
"""

INSTANCE_RESULTS = """
CREATE VIEW instance_results AS
SELECT i.sop_instance_uid, s.study_instance_uid, i.state, i.reason, i.view_position,
       i.ood_score, i.probability, i.raw_probability, i.band, i.model_name, i.model_version,
       i.received_at, i.predicted_at
FROM instances i
LEFT JOIN studies s ON s.id = i.study_id
"""

DELIVERIES = """
CREATE VIEW deliveries AS
SELECT s.study_instance_uid, m.sop_instance_uid, m.kind, o.destination, o.state, o.attempts,
       CASE WHEN o.state = 'pending' THEN o.due_at END AS next_attempt_at,
       o.sent_at, o.committed_at, o.error
FROM outbox o
JOIN objects m ON m.id = o.object_id
JOIN studies s ON s.id = o.study_id
"""

# The state is asked for in words that no index of states answers: SQLite would take that one and
# pass by everything that ever failed, instead of the index of what failed lately.
FAILURES = """
CREATE VIEW failures AS
SELECT i.finished_at AS failed_at, s.study_instance_uid,
       i.sop_instance_uid, 'image' AS what, CAST(NULL AS VARCHAR(255)) AS destination, i.reason
FROM instances i
LEFT JOIN studies s ON s.id = i.study_id
WHERE i.state || '' = 'failed'
UNION ALL
SELECT failed_at, study_instance_uid, NULL, 'report', NULL, error
FROM studies
WHERE state || '' = 'failed'
UNION ALL
SELECT o.failed_at, s.study_instance_uid, m.sop_instance_uid, 'delivery', o.destination, o.error
FROM outbox o
JOIN objects m ON m.id = o.object_id
JOIN studies s ON s.id = o.study_id
WHERE o.state || '' = 'failed'
"""

STUDY_TIMES = """
CREATE VIEW study_times AS
SELECT study_instance_uid, received_at,
       SECONDS(received_at, last_arrival_at) AS arrival_s,
       SECONDS(last_arrival_at, finished_at) AS analysis_s,
       SECONDS(finished_at, reported_at) AS report_s,
       SECONDS(reported_at, delivered_at) AS delivery_s,
       SECONDS(received_at, COALESCE(delivered_at, reported_at)) AS total_s
FROM (
    SELECT study_instance_uid, received_at, last_arrival_at, reported_at, delivered_at,
           (SELECT max(i.finished_at) FROM instances i WHERE i.study_id = s.id) AS finished_at
    FROM studies s
) t
"""

INSTANCE_TIMES = """
CREATE VIEW instance_times AS
SELECT i.sop_instance_uid, s.study_instance_uid, i.state, i.received_at,
       SECONDS(i.received_at, i.prepared_at) AS prepare_s,
       SECONDS(i.prepared_at, i.predicted_at) AS infer_s,
       SECONDS(i.received_at, i.finished_at) AS total_s
FROM instances i
LEFT JOIN studies s ON s.id = i.study_id
"""

STUDY_FEEDBACK = """
CREATE VIEW study_feedback AS
SELECT s.study_instance_uid, f.verdict, f.comment, f.author, f.created_at, f.revision,
       f.probability, f.band, f.model_name, f.model_version
FROM feedback f
JOIN studies s ON s.id = f.study_id
"""

MODEL_COMPARISONS = """
CREATE VIEW model_comparisons AS
SELECT c.created_at, s.study_instance_uid, i.sop_instance_uid, c.state, c.reason,
       c.champion_name, c.champion_version, c.champion_probability, c.champion_band, c.champion_s,
       c.challenger_name, c.challenger_version, c.challenger_probability, c.challenger_band,
       c.challenger_s
FROM comparisons c
JOIN instances i ON i.id = c.instance_id
LEFT JOIN studies s ON s.id = i.study_id
"""

VIEWS = {
    "study_results": STUDY_RESULTS,
    "instance_results": INSTANCE_RESULTS,
    "deliveries": DELIVERIES,
    "failures": FAILURES,
    "study_times": STUDY_TIMES,
    "instance_times": INSTANCE_TIMES,
    "study_feedback": STUDY_FEEDBACK,
    "model_comparisons": MODEL_COMPARISONS,
}

# SECONDS(from, to): the one thing that the two databases say in different words.
_SECONDS = re.compile(r"SECONDS\(([\w.]+), ((?:COALESCE\([^)]*\))|[\w.]+)\)")
_SECONDS_IN = {
    "sqlite": r"ROUND((julianday(\2) - julianday(\1)) * 86400, 3)",
    "postgresql": r"CAST(ROUND(EXTRACT(EPOCH FROM \2 - \1), 3) AS DOUBLE PRECISION)",
}


def create_statements(dialect: str) -> list[str]:
    """CREATE VIEW for every view, in the words of "sqlite" or "postgresql"."""
    return [_SECONDS.sub(_SECONDS_IN[dialect], statement) for statement in VIEWS.values()]
