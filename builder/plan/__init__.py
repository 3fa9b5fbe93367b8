"""What a build would do, why, and at what cost; without torch and without DVC."""
