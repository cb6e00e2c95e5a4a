"""The views that people query: public, with stable columns, the same in both databases."""

STUDY_RESULTS = """
CREATE VIEW study_results AS
SELECT study_instance_uid, accession_number, patient_id, issuer_of_patient_id, study_date,
       age_years, intended_use, probability, band, model_name, model_version, state,
       image_count, analysed_count, received_at, reported_at, delivered_at,
       sr_sop_instance_uid, revision, error, retracted_at
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

VIEWS = {
    "study_results": STUDY_RESULTS,
    "instance_results": INSTANCE_RESULTS,
    "deliveries": DELIVERIES,
}
