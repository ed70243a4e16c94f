"""The version of Zipquant; the report and the bundle name it."""

VERSION = "0.3.0"
