-- PostgreSQL's image makes Prefect's database itself, and this one when its volume is new.
CREATE DATABASE mlflow;
