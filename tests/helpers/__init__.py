"""What several tests share: models, data, references and checks."""
