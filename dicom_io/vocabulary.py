"""The words and codes by which a radiograph says what it shows: body part and view.

Sources: PS3.16 Annex L (Body Part Examined), CID 4031 (anatomic regions), CID 4010 (views).
"""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# CS terms of Annex L that a radiograph may hold; only these are ever shown in a reason.
BODY_PART_TERMS = _set("""
    ABDOMEN ABDOMENPELVIS ACJOINT ANKLE ARM BREAST CALCANEUS CHEST CHESTABDOMEN CHESTABDPELVIS
    CLAVICLE COCCYX CSPINE CTSPINE ELBOW EXTREMITY EYE FACE FEMUR FINGER FOOT FOREARM HAND HEAD
    HEADNECK HEART HIP HUMERUS IAC JAW KNEE LEG LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM
    NECK NECKCHEST NOSE ORBIT PATELLA PELVIS RIB SCAPULA SCJOINT SHOULDER SIJOINT SINUS SKULL
    SPINE SSPINE STERNUM STOMACH THIGH THORAX THUMB TLSPINE TMJ TOE TSPINE WHOLEBODY WRIST ZYGOMA
""")
CHEST_WORDS = _set("chest thorax lung lungs cxr torax tórax poumon poumons brust")

# A word in free text, and the defined term that it stands for.
OTHER_PART_WORDS = {
    **{term.lower(): term for term in BODY_PART_TERMS - _set("CHEST THORAX LUNG FACE EYE HEART")},
    "abdominal": "ABDOMEN", "becken": "PELVIS", "bws": "TSPINE", "fuss": "FOOT", "hws": "CSPINE",
    "knie": "KNEE", "lws": "LSPINE", "ribs": "RIB", "schulter": "SHOULDER", "thoracic": "TSPINE",
}  # fmt: skip

LATERAL_WORDS = _set("""
    lat lateral laterale latéral latérale lateralis laterolateral seitlich seitl profil perfil ll rl
""")
FRONTAL_WORDS = _set("pa ap frontal face anteroposterior posteroanterior dorsoventral")
OBLIQUE_WORDS = _set("oblique obl schräg rao lao rpo lpo rlo llo")
DECUBITUS_WORDS = _set("decubitus decub rld lld")

# SNOMED CT, and the SNOMED RT values of older objects; the values do not collide.
CHEST_CODES = _set("816094009 51185008 39607008 43799004 T-D3000 T-28000")
FRONTAL_CODES = _set("399348003 272479007 399033003 R-10206 R-10214 R-40888 R-10202")
LATERAL_CODES = _set("""
    399067008 399173006 399198007 30730003 399352003 399260004
    R-102CD R-10228 R-10236 R-10232 R-10224 G-A145
""")
