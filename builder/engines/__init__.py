"""What runs a training stage: TRL in process; outside trainers will be files beside it. Need torch."""
