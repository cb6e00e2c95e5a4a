from pathlib import Path

import pytest

from dicom_io.eligibility import Policy
from worker.destinations import parse
from worker.errors import BadSettings
from worker.prepare import make_policy
from worker.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _problems(environ: dict[str, str]) -> str:
    with pytest.raises(BadSettings) as caught:
        Settings.from_env(environ)
    return str(caught.value)


def test_without_any_variable_everything_has_its_default(tmp_path: Path) -> None:
    settings = Settings.from_env({})
    assert settings.ae_title == "CXR_WORKER"
    assert settings.dicom_port == 11112
    assert settings.database == f"sqlite:///{tmp_path / 'var' / 'cxr.db'}"
    assert settings.broker.startswith("redis+socket://")


def test_every_bad_variable_is_reported_at_once_with_value_and_expectation() -> None:
    text = _problems(
        {
            "CXR_DICOM_PORT": "http",
            "CXR_PREVALENCE": "10",
            "CXR_DESTINATIONS": "PACS@host",
            "CXR_OUTSIDE_INTENDED_USE": "hide",
            "CXR_TIMEZONE": "Mars/Olympus",
            "CXR_AE_TITLE": "A_TITLE_OF_MORE_THAN_16",
            "CXR_ALLOWED_IPS": "10.0.0.0/99",
            "CXR_TEST_PATIENT_PATTERN": "(",
        }
    )
    for expected in (
        "CXR_DICOM_PORT='http'",
        "CXR_PREVALENCE='10': input should be less than 1",
        "AET@host:port",
        "CXR_OUTSIDE_INTENDED_USE='hide': input should be 'withhold' or 'mark'",
        "expected a time zone such as Europe/Berlin",
        "CXR_AE_TITLE='A_TITLE_OF_MORE_THAN_16': expected an AE title: 1 to 16",
        "CXR_ALLOWED_IPS='10.0.0.0/99'",
        "CXR_TEST_PATIENT_PATTERN='('",
    ):
        assert expected in text
    assert len(text.splitlines()) == 9


def test_a_secret_is_never_shown() -> None:
    text = _problems({"CXR_DATABASE_URL": "mysql://user:hunter2@host/db"})
    assert "CXR_DATABASE_URL=***: expected postgresql://" in text
    assert "hunter2" not in text
    settings = Settings.from_env({"CXR_BROKER_URL": "redis://:hunter2@host/0"})
    assert "hunter2" not in repr(settings)


def test_a_misspelt_setting_is_named_with_what_was_probably_meant() -> None:
    assert "CXR_DICOM_PROT: no such setting; did you mean CXR_DICOM_PORT?" in _problems(
        {"CXR_DICOM_PROT": "104"}
    )


def test_band_limits_must_be_in_order() -> None:
    text = _problems({"CXR_BAND_REVIEW_FROM": "0.7", "CXR_BAND_POSITIVE_FROM": "0.3"})
    assert "CXR_BAND_REVIEW_FROM must not be above CXR_BAND_POSITIVE_FROM" in text


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CXR_DICOM_PORT=104\nCXR_AE_TITLE=FROM_FILE\n")
    settings = Settings.from_env({"CXR_DICOM_PORT": "105"})
    assert (settings.dicom_port, settings.ae_title) == (105, "FROM_FILE")


def test_an_empty_variable_means_the_default() -> None:
    environ = {PREFIX + name.upper(): "" for name in Settings.model_fields}
    assert Settings.from_env(environ) == Settings.from_env({})


def test_lists_are_separated_by_commas() -> None:
    settings = Settings.from_env(
        {
            "CXR_DESTINATIONS": "PACS@10.0.0.1:104, ARCHIVE@[::1]:11112",
            "CXR_ALLOWED_IPS": "10.0.0.0/8,127.0.0.1",
            "CXR_ALLOWED_CALLING_AE_TITLES": "PACS,MODALITY 1",
        }
    )
    assert settings.destinations == (
        parse("PACS@10.0.0.1:104"),
        parse("ARCHIVE@[::1]:11112"),
    )
    assert [str(network) for network in settings.allowed_ips] == ["10.0.0.0/8", "127.0.0.1/32"]
    assert settings.allowed_calling_ae_titles == ("PACS", "MODALITY 1")


def test_settings_pass_unchanged_to_a_child_process() -> None:
    settings = Settings.from_env(
        {
            "CXR_DESTINATIONS": "PACS@10.0.0.1:104,ARCHIVE@[::1]:11112",
            "CXR_ALLOWED_IPS": "10.0.0.0/8",
            "CXR_DATABASE_URL": "postgresql://u:p@h/d",
            "CXR_TEST_PATIENT_PATTERN": "^TEST",
            "CXR_DELIVERY": "off",
            "CXR_BAND_REVIEW_FROM": "0.25",
            "CXR_STUDY_SETTLE_S": "2",
        }
    )
    assert Settings.from_env(settings.environment()) == settings


def test_what_is_eligible_is_a_setting() -> None:
    assert make_policy(Settings.from_env({})) == Policy()
    policy = make_policy(
        Settings.from_env(
            {
                "CXR_ELIGIBLE_MODALITIES": "cr, SC",
                "CXR_ELIGIBLE_BODY_PARTS": "CHEST,RIBS",
                "CXR_UNKNOWN_BODY_PART": "refuse",
                "CXR_UNKNOWN_VIEW": "refuse",
                "CXR_MIN_IMAGE_SIDE_PX": "512",
            }
        )
    )
    assert policy == Policy(
        modalities=frozenset({"CR", "SC"}),
        body_parts=frozenset({"CHEST", "RIBS"}),
        body_part_may_be_unknown=False,
        view_may_be_unknown=False,
        sides_px_min=512,
    )
    text = _problems({"CXR_ELIGIBLE_MODALITIES": "CR;DX", "CXR_UNKNOWN_VIEW": "perhaps"})
    assert "CXR_ELIGIBLE_MODALITIES" in text
    assert "should be 'accept' or 'refuse'" in text


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:hunter2@host/0\n")
    settings = Settings.from_env({"CXR_BROKER_URL_FILE": str(tmp_path / "url")})
    assert settings.broker == "redis://:hunter2@host/0"
    assert Settings.from_env(settings.environment()) == settings  # as a child process reads them


def test_a_variable_wins_over_the_file_that_stands_for_it(tmp_path: Path) -> None:
    environ = {"CXR_WEB_TOKEN": "t" * 16, "CXR_WEB_TOKEN_FILE": str(tmp_path / "absent")}
    assert Settings.from_env(environ).web_token.get_secret_value() == "t" * 16


def test_a_secret_file_that_cannot_be_used_is_named_and_its_content_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("hunter2" * 1000)
    text = _problems(
        {
            "CXR_DATABASE_URL_FILE": str(tmp_path / "absent"),
            "CXR_BROKER_URL_FILE": str(tmp_path / "empty"),
            "CXR_WEB_TOKEN_FILE": str(tmp_path / "long"),
        }
    )
    assert f"CXR_DATABASE_URL_FILE='{tmp_path}/absent': cannot be read (No such file" in text
    assert f"CXR_BROKER_URL_FILE='{tmp_path}/empty': expected text of 1 to 4096 bytes" in text
    assert f"CXR_WEB_TOKEN_FILE='{tmp_path}/long': expected text of 1 to 4096 bytes" in text
    assert "hunter2" not in text


def test_only_secrets_are_read_from_files() -> None:
    assert "CXR_DICOM_PORT_FILE: no such setting" in _problems({"CXR_DICOM_PORT_FILE": "x"})
