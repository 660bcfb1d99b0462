"""What result rows say: tables that are computed from them, and nothing that shows one."""
