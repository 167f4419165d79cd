"""The authentication core: what decides who somebody is and what a sign-in proves, and the tests that concern it."""

from pathlib import Path

ROOT = Path(__file__).parent.parent

_AUTHN = """
    access_tokens api_keys begin_session challenge_storage challenges credential_failures end_sessions enrol_factor
    enrol_on_sign_in factor_storage factors finish_sign_in introspections issuer_keys jwks known_devices mailbox_proofs
    own_factors password_hash_forms password_hashes password_text passwords prove_password prove_recovery_code
    prove_totp prove_webauthn recovery_code_storage recovery_codes register_webauthn reset_factors second_step
    session_storage sessions sign_in sign_in_throttles signed_tokens totp tries volatile_values webauthn_keys
    webauthn_storage
"""
_AUTHZ = "auth_conditions auth_values evaluate grants step_up"
_SERVICE = "access_tokens caller callers fresh_sign_in key_rates mfa_demands rights signed_in subject_sign_ins"

MODULES = tuple(
    f"{package}/{name}.py"
    for package, names in (("authn", _AUTHN), ("authz", _AUTHZ), ("service", _SERVICE))
    for name in names.split()
)
"""As paths in the repository."""

_UNIT = """
    access_tokens account_states api_keys auth_conditions auth_values breached_passwords callers evaluate explain
    factor_steps fast_callers granting grants issuer_client issuer_keys key_rates key_scopes metrics new_passwords node
    password_hashes password_hashing passwords plan recovery_codes relying_party rights sessions signed_in signed_tokens
    step_up subject_sign_ins tenant_settings totp user_edits webauthn_keys
"""
_PROPERTY = "access_tokens gate step_up"
_INTEGRATION = """
    access_tokens account_homes account_states challenges change_password change_policy factor_rotation
    forgetting_in_valkey own_factors recovery_code_proofs service_account_nodes session_races sign_in_story
    sign_in_throttles tenants_and_keys totp_proofs user_races webauthn_proofs webauthn_registrations
"""
_API = """
    access_tokens account_password admin_factors admin_sign_in enrolment escalation evaluations every_pathway
    first_administrator forward_auth fresh_sign_in hostile_credentials invitations own_factors password_reset
    personal_keys route_access security_key_sign_in security_keys service_accounts sessions sign_in sign_in_attacks
    sign_in_histories sign_ins_in_decisions step_up tenant_life
"""


def _files(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/test_{name}.py" for name in names.split())


FAST_TESTS = (*_files("unit", _UNIT), *_files("property", _PROPERTY))
"""Need no server."""
TESTS = (*FAST_TESTS, *_files("integration", _INTEGRATION), *_files("api", _API))
"""In the order in which they are run: those that need nothing first."""
