from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from license_authority.errors import (
    AuthorityBusyError,
    AuthorityMissingError,
    AuthorityOccupiedError,
    FileAccessError,
    PasswordNeededError,
    PasswordWrongError,
    RotationError,
)
from license_authority.keyring import Keyring, load_authority_trust, load_keyring, locked, make_authority
from license_authority.rotating import rotate
from smartserver_licensed.documents.envelope import seal, verify
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, load_root, load_trust, seal_root
from smartserver_licensed.domain.errors import KeyRejectedError, RootError, SignatureError
from support.documents import ROOT_KEY, make_root

PASSWORD = b"correct horse battery staple"
NOW = 1_795_000_000


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Three root keys of which two sign, two grant keys of which one signs."""
    directory = tmp_path / "real"
    make_authority(directory, now=NOW, root_keys=3, root_threshold=2, grant_keys=2, password=PASSWORD)
    return directory


@pytest.fixture
def demonstration(tmp_path: Path) -> Path:
    make_authority(tmp_path / "demo", now=NOW, is_demonstration=True)
    return tmp_path / "demo"


def content(directory: Path) -> dict[str, bytes]:
    return {str(each.relative_to(directory)): each.read_bytes() for each in directory.rglob("*") if each.is_file()}


def grant_ids(keyring: Keyring) -> set[str]:
    return set(keyring.root.keys_for(GRANT_TYPE))


def root_ids(keyring: Keyring) -> set[str]:
    return set(keyring.root.keys_for(ROOT_TYPE))


def key_file(directory: Path, role: str, key_id: str) -> Path:
    return directory / f"{role}-{key_id[:16]}.pem"


def test_only_the_owner_reads_anything(real: Path) -> None:
    modes = {stat.S_IMODE(each.stat().st_mode) for each in real.rglob("*") if each.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(each.stat().st_mode) for each in (real, real / "keys", real / "roots")} == {0o700}


def test_a_real_authority_never_allows_unactivated_grants_and_a_demonstration_does(
    real: Path, demonstration: Path
) -> None:
    assert not load_keyring(real, PASSWORD).root.allow_unactivated
    assert load_keyring(demonstration).root.allow_unactivated
    assert not rotate(real, now=NOW + 1, retire=["grant"], password=PASSWORD).root.allow_unactivated


def test_every_key_of_a_real_authority_needs_its_password(real: Path) -> None:
    paths = list((real / "keys").iterdir())
    assert len(paths) == 5
    for path in paths:
        with pytest.raises(TypeError, match="encrypted"):
            serialization.load_pem_private_key(path.read_bytes(), None)
        serialization.load_pem_private_key(path.read_bytes(), PASSWORD)


@pytest.mark.parametrize("password", [None, b"", b"fifteen bytes.."])
def test_a_real_authority_is_not_made_without_a_good_password(tmp_path: Path, password: bytes | None) -> None:
    with pytest.raises(PasswordNeededError):
        make_authority(tmp_path / "real", now=NOW, password=password)
    assert not (tmp_path / "real").exists()


def test_a_wrong_password_is_named_as_such_and_a_missing_one_too(real: Path) -> None:
    with pytest.raises(PasswordWrongError, match=r"^cannot open the key .*grant-.*: wrong password"):
        load_keyring(real, b"correct horse battery stapler")
    with pytest.raises(PasswordNeededError, match="--password-file"):
        load_keyring(real)
    with pytest.raises(PasswordNeededError):
        load_keyring(real, b"")


def test_what_it_signs_verifies_under_its_root_and_no_more_keys_sign_than_needed(tmp_path: Path) -> None:
    keyring = make_authority(tmp_path / "a", now=NOW, grant_keys=3, grant_threshold=2, password=PASSWORD)
    assert len(keyring.grant_signers) == 2
    document = seal(GRANT_TYPE, b"{}", keyring.grant_signers)
    trusted = keyring.root.keys_for(GRANT_TYPE)
    assert verify(document, payload_type=GRANT_TYPE, keys=trusted, threshold=2) == b"{}"
    with pytest.raises(SignatureError):
        verify(document, payload_type=GRANT_TYPE, keys=trusted, threshold=3)


def test_it_signs_as_long_as_a_threshold_of_grant_keys_is_there(real: Path) -> None:
    first, second = load_keyring(real, PASSWORD).root.roles[GRANT_TYPE].key_ids
    key_file(real / "keys", "grant", first).unlink()
    (signer,) = load_keyring(real, PASSWORD).grant_signers
    assert signer.public.key_id == second
    key_file(real / "keys", "grant", second).unlink()
    with pytest.raises(AuthorityMissingError, match=r"0 of its root's grant keys .* 1 needed"):
        load_keyring(real, PASSWORD)


def test_a_key_that_the_root_does_not_name_signs_nothing(real: Path, demonstration: Path, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other", now=NOW, is_demonstration=True)
    (mine,) = load_keyring(demonstration).root.roles[GRANT_TYPE].key_ids
    (theirs,) = other.root.roles[GRANT_TYPE].key_ids
    key_file(demonstration / "keys", "grant", mine).write_bytes(
        key_file(tmp_path / "other" / "keys", "grant", theirs).read_bytes()
    )
    with pytest.raises(AuthorityMissingError, match="not the root's"):
        load_keyring(demonstration)


def test_a_key_without_a_password_is_none_of_a_real_authority(real: Path) -> None:
    path = key_file(real / "keys", "grant", load_keyring(real, PASSWORD).root.roles[GRANT_TYPE].key_ids[0])
    key = serialization.load_pem_private_key(path.read_bytes(), PASSWORD)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(AuthorityMissingError, match="no password protects it"):
        load_keyring(real, PASSWORD)


@pytest.mark.parametrize(
    "change", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\x00\xff"]
)
def test_a_damaged_key_is_refused_with_its_name(demonstration: Path, change: bytes) -> None:
    (path,) = (demonstration / "keys").glob("grant-*.pem")
    path.write_bytes(change)
    with pytest.raises(AuthorityMissingError, match=path.name):
        load_keyring(demonstration)


def test_thresholds_that_nobody_can_reach_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="threshold 3 of 2"):
        make_authority(tmp_path / "a", now=NOW, root_keys=2, root_threshold=3, password=PASSWORD)
    assert content(tmp_path / "a") == {}


def test_an_occupied_directory_is_left_as_it_is(real: Path, tmp_path: Path) -> None:
    before = content(real)
    with pytest.raises(AuthorityOccupiedError):
        make_authority(real, now=NOW, is_demonstration=True)
    assert content(real) == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(AuthorityOccupiedError):
        make_authority(tmp_path / "photos", now=NOW, is_demonstration=True)


def test_an_init_that_was_cut_before_its_root_goes_on_with_the_keys_that_it_made(tmp_path: Path) -> None:
    make_authority(tmp_path / "a", now=NOW, root_keys=2, password=PASSWORD)
    (tmp_path / "a" / "roots" / "1.json").unlink()  # the last thing that is written
    (tmp_path / "a" / "keys" / ".grant-cut.pem.x1").write_bytes(b"half")
    keys = content(tmp_path / "a")
    next((tmp_path / "a" / "keys").glob("root-*.pem")).unlink()
    with pytest.raises(AuthorityMissingError):
        load_keyring(tmp_path / "a", PASSWORD)
    make_authority(tmp_path / "a", now=NOW, root_keys=2, password=PASSWORD)
    assert len(list((tmp_path / "a" / "keys").glob("*.pem"))) == 3
    assert len(keys.keys() & content(tmp_path / "a").keys()) == 3  # two keys, and the half file
    assert load_keyring(tmp_path / "a", PASSWORD).root.version == 1


# -- root keys elsewhere --------------------------------------------------------------------------------------------


@pytest.fixture
def sticks(tmp_path: Path) -> list[Path]:
    sticks = [tmp_path / "stick-1", tmp_path / "stick-2"]
    for each in sticks:
        each.mkdir()
    return sticks


def test_root_keys_can_lie_elsewhere_and_only_a_rotation_misses_them(tmp_path: Path, sticks: list[Path]) -> None:
    directory = tmp_path / "a"
    make_authority(directory, now=NOW, root_keys=2, root_threshold=2, password=PASSWORD, root_key_directories=sticks)
    assert [len(list(each.glob("root-*.pem"))) for each in (*sticks, directory / "keys")] == [1, 1, 0]
    assert load_keyring(directory, PASSWORD).grant_signers
    before = content(directory)
    for at_hand in ([], sticks[:1]):
        with pytest.raises(RotationError, match=rf"demands 2 root keys, {len(at_hand)} are at hand"):
            rotate(directory, now=NOW, retire=["grant"], password=PASSWORD, root_key_directories=at_hand)
    assert content(directory) == before
    keyring = rotate(directory, now=NOW, retire=["grant"], password=PASSWORD, root_key_directories=sticks)
    assert keyring.root.version == 2


def test_a_stick_that_is_not_there_is_not_made_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError):
        make_authority(tmp_path / "a", now=NOW, password=PASSWORD, root_key_directories=[tmp_path / "stick"])
    assert not (tmp_path / "stick").exists()
    assert content(tmp_path / "a") == {}


# -- rotation -------------------------------------------------------------------------------------------------------


def test_retired_grant_keys_are_replaced_and_the_chain_leads_to_the_new_root(real: Path) -> None:
    before = load_keyring(real, PASSWORD)
    after = rotate(real, now=NOW + 5, retire=["grant"], password=PASSWORD)
    assert (after.root.version, after.root.issued_at) == (2, NOW + 5)
    assert len(grant_ids(after)) == 2
    assert not grant_ids(before) & grant_ids(after)
    assert root_ids(before) == root_ids(after)
    shipped = load_trust(before.root_envelope)
    assert shipped.extended(after.trust.envelopes).current == after.root
    assert {each.public.key_id for each in after.grant_signers} <= grant_ids(after)


def test_one_key_is_retired_by_its_id_and_the_others_stay(real: Path) -> None:
    before = load_keyring(real, PASSWORD)
    gone, stays = before.root.roles[GRANT_TYPE].key_ids
    after = rotate(real, now=NOW, retire=[gone[:12].upper()], password=PASSWORD)
    assert gone not in after.root.keys
    assert stays in grant_ids(after)
    assert len(grant_ids(after)) == 2


def test_all_root_keys_are_exchanged_and_both_thresholds_sign(real: Path) -> None:
    before = load_keyring(real, PASSWORD)
    after = rotate(real, now=NOW, retire=["root"], password=PASSWORD)
    assert not root_ids(before) & root_ids(after)
    assert load_trust(before.root_envelope).extended(after.trust.envelopes).current == after.root
    assert load_root(after.trust.envelopes[-1]) == after.root
    third = rotate(real, now=NOW, retire=["grant"], password=PASSWORD)
    assert third.root.version == 3


def test_numbers_thresholds_and_the_emergency_cap_change(real: Path) -> None:
    after = rotate(
        real, now=NOW, grant_keys=3, grant_threshold=2, root_threshold=3, emergency_max_devices=50, password=PASSWORD
    )
    assert len(after.grant_signers) == 2
    assert after.root.threshold_for(ROOT_TYPE) == 3
    assert after.root.emergency_max_devices == 50
    assert rotate(real, now=NOW, retire=["grant"], password=PASSWORD).root.threshold_for(GRANT_TYPE) == 2


def test_a_demonstration_rotates_without_a_password(demonstration: Path) -> None:
    keyring = rotate(demonstration, now=NOW, retire=["grant"], password=b"from the environment")
    assert (keyring.root.version, keyring.root.allow_unactivated) == (2, True)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"retire": ["0123456789abcdef"]}, "neither root nor grant nor the id of one key"),
        ({"retire": [""]}, "neither root nor grant"),
        ({"grant_keys": 1}, "2 stay; say which to retire"),
        ({"version": 3}, "the newest one is 1, none may be skipped"),
        ({"version": 0}, "none may be skipped"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(real: Path, asked: dict[str, object], why: str) -> None:
    before = content(real)
    with pytest.raises(RotationError, match=why):
        rotate(real, now=NOW, password=PASSWORD, **asked)  # type: ignore[arg-type]
    with pytest.raises(RootError):
        rotate(real, now=NOW, password=PASSWORD, root_threshold=4)
    with pytest.raises(PasswordWrongError):
        rotate(real, now=NOW, password=PASSWORD + b"!", retire=["grant"])
    assert content(real) == before


def test_a_rotation_that_was_cut_before_its_root_goes_on_with_its_keys_and_the_old_root_signs_meanwhile(
    real: Path,
) -> None:
    before = load_keyring(real, PASSWORD)
    rotate(real, now=NOW, retire=["grant", "root"], password=PASSWORD)
    (real / "roots" / "2.json").unlink()  # the last thing that is written
    assert load_keyring(real, PASSWORD).root == before.root
    keys = content(real / "keys")
    again = rotate(real, now=NOW, retire=["grant", "root"], password=PASSWORD)
    assert again.root.version == 2
    assert content(real / "keys") == keys
    assert {key_file(real / "keys", "grant", each).name for each in grant_ids(again)} <= keys.keys()


def test_a_rotation_named_by_its_version_happens_once(real: Path) -> None:
    first = rotate(real, now=NOW, retire=["grant"], version=2, password=PASSWORD)
    before = content(real)
    assert rotate(real, now=NOW + 9, retire=["grant"], version=2, password=PASSWORD) == first
    assert content(real) == before


def test_where_nothing_would_change_no_root_is_made(real: Path) -> None:
    gone = load_keyring(real, PASSWORD).root.roles[GRANT_TYPE].key_ids[0]
    rotate(real, now=NOW, retire=[gone], password=PASSWORD)
    before = content(real)
    assert rotate(real, now=NOW + 9, retire=[gone], password=PASSWORD).root.version == 2
    assert rotate(real, now=NOW + 9, password=PASSWORD).root.version == 2
    assert content(real) == before


def test_seven_rotations_are_one_document_that_a_smartserver_at_root_1_follows(real: Path) -> None:
    shipped = load_trust(load_keyring(real, PASSWORD).root_envelope)
    for number in range(7):
        rotate(real, now=NOW + number, retire=["root" if number % 3 == 1 else "grant"], password=PASSWORD)
    keyring = load_keyring(real, PASSWORD)
    assert keyring.root.version == 8
    assert load_trust(keyring.root_envelope) == keyring.trust
    assert shipped.extended(keyring.trust.envelopes).current == keyring.root


def test_a_chain_with_a_hole_or_a_foreign_root_is_no_authority(real: Path, demonstration: Path) -> None:
    for _ in range(2):
        rotate(real, now=NOW, retire=["grant"], password=PASSWORD)
    second = (real / "roots" / "2.json").read_bytes()
    (real / "roots" / "2.json").unlink()
    with pytest.raises(AuthorityMissingError, match="none may be skipped"):
        load_keyring(real, PASSWORD)
    (real / "roots" / "2.json").write_bytes(seal_root(make_root(version=2), [ROOT_KEY]))
    with pytest.raises(AuthorityMissingError, match="not signed by version 1"):
        load_keyring(real, PASSWORD)
    (real / "roots" / "2.json").write_bytes(second)
    assert load_authority_trust(real).current.version == 3


def test_a_root_that_names_a_weak_key_is_refused(real: Path) -> None:
    path = real / "roots" / "1.json"
    weak = b"\x01" + bytes(31)
    root = make_root()
    object.__setattr__(strong := root.keys[ROOT_KEY.public.key_id], "raw", weak)
    try:
        with pytest.raises(KeyRejectedError):
            load_root(seal_root(root, [ROOT_KEY]))
        path.write_bytes(seal_root(root, [ROOT_KEY]))
        with pytest.raises(AuthorityMissingError, match="small order"):
            load_keyring(real, PASSWORD)
    finally:
        object.__setattr__(strong, "raw", ROOT_KEY.public.raw)


def test_two_rotations_at_once_are_one_too_many(real: Path) -> None:
    with locked(real), pytest.raises(AuthorityBusyError):
        rotate(real, now=NOW, retire=["grant"], password=PASSWORD)
    assert rotate(real, now=NOW, retire=["grant"], password=PASSWORD).root.version == 2
