"""Whatever happens between SmartServers and the authority: no device is licensed twice, and none is lost."""
