//! Names of metrics with what they mean, written once: for the code, and for whoever reads them in a monitoring system.

/// Declares `pub const NAME: &str` for each metric, documented by its help text, and a function `describe` that tells
/// the recorder all of these texts. The crate that uses it depends on `metrics`.
///
/// ```ignore
/// metric_names! {
///     counter RECORDS = "storaged_records_total": "Records made durable";
/// }
/// ```
#[macro_export]
macro_rules! metric_names {
    ($($kind:ident $name:ident = $metric:literal: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: &str = $metric;
        )*

        /// Tells the recorder what each of them means: once there is one.
        pub(crate) fn describe() {
            $( $crate::metric_names!(@$kind $name, $help); )*
        }
    };
    (@counter $name:ident, $help:literal) => { ::metrics::describe_counter!($name, $help) };
    (@gauge $name:ident, $help:literal) => { ::metrics::describe_gauge!($name, $help) };
    (@histogram $name:ident, $help:literal) => { ::metrics::describe_histogram!($name, $help) };
}
